//! Where Jinja templates show that they were written for Python: how values print, json.dumps
//! and strftime.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Lists in lists in lists: no template needs more, and the functions below recurse.
const MAX_DEPTH: usize = 64;

/// How Python's str() prints a value: strings as they are, the rest as repr().
pub fn str(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None => write_repr(&mut out, value, 0)?,
    }
    Ok(out)
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid(&format!("a value is nested over {MAX_DEPTH} deep")));
    }
    Ok(())
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_repr(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Python prefers single quotes, and double ones where that saves escapes.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || c == '\x7f' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

struct Json {
    ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// The `tojson` filter of transformers: json.dumps without HTML escapes.
pub fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|v| !v.is_none()).map(|v| match v.as_usize() {
        Some(width) if width <= 64 => Ok(" ".repeat(width)),
        _ => v.as_str().map(str::to_string).ok_or_else(|| invalid("tojson: bad indent")),
    });
    let indent = indent.transpose()?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let comma = if indent.is_some() { "," } else { ", " };
    let separators = separators.unwrap_or_else(|| vec![comma.into(), ": ".into()]);
    let [item_separator, key_separator] = <[String; 2]>::try_from(separators)
        .map_err(|_| invalid("tojson: separators are two strings"))?;
    let json = Json {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    json.write(&mut out, &value, 0)?;
    Ok(Value::from(out))
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.write_items(out, ['[', ']'], items, depth)?;
            }
            ValueKind::Map => {
                let items = self.pairs(value)?;
                self.write_items(out, ['{', '}'], items, depth)?;
            }
            kind => return Err(invalid(&format!("tojson: {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn pairs(&self, map: &Value) -> Result<Vec<(Option<String>, Value)>, Error> {
        let mut pairs = Vec::new();
        for key in map.try_iter()? {
            let name = match key.as_str() {
                Some(name) => name.to_string(),
                None => {
                    tojson(key.clone(), Kwargs::from_iter::<[(&str, Value); 0]>([]))?.to_string()
                }
            };
            pairs.push((Some(name), map.get_item(&key)?));
        }
        if self.sort_keys {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Ok(pairs)
    }

    fn write_items(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        out.push(open);
        let empty = items.is_empty();
        for (i, (key, item)) in items.into_iter().enumerate() {
            out.push_str(if i == 0 { "" } else { &self.item_separator });
            self.break_line(out, depth + 1);
            if let Some(key) = key {
                self.write_string(out, &key);
                out.push_str(&self.key_separator);
            }
            self.write(out, &item, depth + 1)?;
        }
        if !empty {
            self.break_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn break_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() && c != '\x7f' {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// time.strftime in local time, as C's.
pub fn strftime(unix_seconds: i64, format: &str) -> Result<String, Error> {
    const LONGEST: usize = 4096;
    if format.is_empty() {
        return Ok(String::new());
    }
    let format = std::ffi::CString::new(format).map_err(|_| invalid("strftime_now: NUL"))?;
    let mut buffer = vec![0u8; LONGEST];
    // SAFETY: `fields` is filled by localtime_r before use, the format is NUL-terminated, and
    // strftime writes at most LONGEST bytes.
    let size = unsafe {
        let mut fields: libc::tm = std::mem::zeroed();
        let seconds = unix_seconds as libc::time_t;
        if libc::localtime_r(&seconds, &mut fields).is_null() {
            return Err(invalid("strftime_now: the time is out of range"));
        }
        libc::strftime(buffer.as_mut_ptr().cast(), LONGEST, format.as_ptr(), &fields)
    };
    buffer.truncate(size);
    String::from_utf8(buffer).map_err(|_| invalid("strftime_now: the result is not UTF-8"))
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}
