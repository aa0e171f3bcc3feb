//! The chat template's part of quire_text.h.

use crate::boundary::{borrow, guard, Bytes, Slice};
use crate::chat_template::{ChatTemplate, Input, Message};

/// QuireChatMessage.
#[repr(C)]
pub struct MessageView {
    role: Slice,
    content: Slice,
}

/// QuireTemplateInput.
#[repr(C)]
pub struct InputView {
    messages: *const MessageView,
    message_count: usize,
    bos_token: Slice,
    eos_token: Slice,
    add_generation_prompt: bool,
    now_unix_seconds: i64,
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_template_parse(
    source: Slice,
    out: *mut *mut ChatTemplate,
    error: *mut Bytes,
) -> i32 {
    guard(out, error, || {
        Ok(Box::into_raw(Box::new(ChatTemplate::parse(source.text("the chat template")?)?)))
    })
}

/// # Safety
/// `chat_template` came from `quire_template_parse` and is in use nowhere.
#[no_mangle]
pub unsafe extern "C" fn quire_template_free(chat_template: *mut ChatTemplate) {
    if !chat_template.is_null() {
        drop(Box::from_raw(chat_template));
    }
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_template_render(
    chat_template: *const ChatTemplate,
    input: *const InputView,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(out, error, || Ok(Bytes::new((*chat_template).render(&read_input(&*input)?)?)))
}

unsafe fn read_input(view: &InputView) -> Result<Input<'_>, String> {
    let mut messages = Vec::with_capacity(view.message_count);
    for (i, message) in borrow(view.messages, view.message_count).iter().enumerate() {
        messages.push(Message {
            role: message.role.text(&format!("messages[{i}].role"))?,
            content: message.content.text(&format!("messages[{i}].content"))?,
        });
    }
    Ok(Input {
        messages,
        bos_token: view.bos_token.text("bos_token")?,
        eos_token: view.eos_token.text("eos_token")?,
        add_generation_prompt: view.add_generation_prompt,
        now_unix_seconds: view.now_unix_seconds,
    })
}
