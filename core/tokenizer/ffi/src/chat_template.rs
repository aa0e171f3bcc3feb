//! Chat templates rendered as Hugging Face transformers renders them.

use std::io;

use minijinja::value::Value;
use minijinja::{context, Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::python;

const NAME: &str = "chat_template";

/// Instructions a template may run. A message costs tens of them; an endless loop ends here
/// after about a second.
const FUEL: u64 = 10_000_000;
const MAX_SOURCE_BYTES: usize = 1 << 20;
const MAX_OUTPUT_BYTES: usize = 64 << 20;

pub struct Message<'a> {
    pub role: &'a str,
    pub content: &'a str,
}

pub struct Input<'a> {
    pub messages: Vec<Message<'a>>,
    pub bos_token: &'a str,
    pub eos_token: &'a str,
    pub add_generation_prompt: bool,
    pub now_unix_seconds: i64,
}

pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    pub fn parse(source: &str) -> Result<Self, String> {
        if source.len() > MAX_SOURCE_BYTES {
            let size = source.len();
            return Err(format!(
                "the chat template has {size} bytes; the limit is {MAX_SOURCE_BYTES}"
            ));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        // Values print as in Python: None, True, ['a']. (Not so where `~` joins them to a string.)
        environment.set_formatter(|out, _, value| {
            out.write_str(&python::str(value)?).map_err(Error::from)
        });
        environment.add_filter("string", |value: Value| python::str(&value));
        environment.add_filter("tojson", python::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(|e| describe(&e))?;
        Ok(ChatTemplate { environment })
    }

    pub fn render(&self, input: &Input) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|e| describe(&e))?;
        let messages: Vec<Value> = input.messages.iter().map(message_value).collect();
        let now = input.now_unix_seconds;
        let mut output = Bounded { bytes: Vec::new(), full: false };
        let result = template.render_captured_to(
            context! {
                messages,
                // Templates ask "is not none" of these two, as they are always passed.
                tools => Value::from(()),
                documents => Value::from(()),
                add_generation_prompt => input.add_generation_prompt,
                bos_token => input.bos_token,
                eos_token => input.eos_token,
                strftime_now =>
                    Value::from_function(move |format: &str| python::strftime(now, format)),
            },
            &mut output,
        );
        if output.full {
            return Err(format!("the rendered chat is over the limit of {MAX_OUTPUT_BYTES} bytes"));
        }
        result.map_err(|e| describe(&e))?;
        String::from_utf8(output.bytes).map_err(|e| e.to_string())
    }
}

fn message_value(message: &Message) -> Value {
    context! { role => message.role, content => message.content }
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
}

fn describe(error: &Error) -> String {
    match (error.kind(), error.range()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("the chat template ran for more than {FUEL} instructions")
        }
        (ErrorKind::SyntaxError, Some(range)) => format!("{error}, byte {}", range.start),
        _ => error.to_string(),
    }
}

/// transformers marks what the assistant said with a tag of its own, {% generation %}, which
/// adds no text: it becomes {% if true %}.
fn without_generation_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        result.push_str(before);
        let lead = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let (space, word) = tag.split_at(lead);
        result.push_str(space);
        rest = word;
        for (name, plain) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = word.strip_prefix(name);
            let after = after.filter(|a| a.trim_start().trim_start_matches('-').starts_with("%}"));
            if let Some(after) = after {
                result.push_str(plain);
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

/// Collects output up to MAX_OUTPUT_BYTES.
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.full = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
