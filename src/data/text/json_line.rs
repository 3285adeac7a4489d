//! Extracts the text under one key from a line of JSON.
//!
//! The values of the other keys are skipped without being parsed, so they may be NaN, contain half of a surrogate pair,
//! or be nested arbitrarily deep.

use std::ops::Range;

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::data) enum Fault {
    /// The line is not an object. `column` is the byte where parsing failed, counted from 1.
    Broken { what: &'static str, column: usize },
    /// The key is missing. Holds some of the keys that are present, sorted.
    NoKey(Vec<String>),
    /// The value of the key is null.
    Null,
    /// The value of the key is not a string.
    NoText,
    /// The string under the key cannot be decoded. Holds the reason.
    BadText(String),
}

/// The largest number of keys that [`Fault::NoKey`] lists.
const SHOWN: usize = 8;

/// Returns the text under `key`. If the key occurs more than once, the last one counts.
pub(in crate::data) fn text(line: &str, key: &str) -> Result<String, Fault> {
    let (mut found, mut others) = (None, Vec::new());
    entries(line, |name, value| match name {
        Ok(name) if name == key => found = Some(value),
        Ok(name) if others.len() < SHOWN => others.push(name),
        _ => {}
    })?;
    let Some(value) = found else {
        others.sort_unstable();
        others.dedup();
        return Err(Fault::NoKey(others));
    };
    match &line[value] {
        "null" => Err(Fault::Null),
        text if text.starts_with('"') => serde_json::from_str(text).map_err(|e| {
            // Drop the parser's position, which counts from the start of the string.
            let text = e.to_string();
            Fault::BadText(text.split(" at line ").next().unwrap_or_default().to_owned())
        }),
        _ => Err(Fault::NoText),
    }
}

/// Returns whether a line is a JSON object with at least one key.
pub(in crate::data) fn is_object(line: &str) -> bool {
    let mut keys = 0;
    entries(line, |_, _| keys += 1).is_ok() && keys > 0
}

/// Calls `each` with every key of the object in `line` (an error if the key cannot be decoded) and the range of its
/// value.
fn entries(line: &str, mut each: impl FnMut(serde_json::Result<String>, Range<usize>)) -> Result<(), Fault> {
    let mut at = Cursor { bytes: line.as_bytes(), at: 0 };
    at.space();
    at.expect(b'{', "expected value")?;
    at.space();
    if at.peek() == Some(b'}') {
        at.at += 1;
    } else {
        loop {
            at.space();
            if at.peek() != Some(b'"') {
                return Err(at.broken("key must be a string"));
            }
            let name = at.string()?;
            at.space();
            at.expect(b':', "expected `:`")?;
            at.space();
            let value = at.value()?;
            each(serde_json::from_str(&line[name]), value);
            at.space();
            match at.peek() {
                Some(b',') => at.at += 1,
                Some(b'}') => break at.at += 1,
                _ => return Err(at.broken("expected `,` or `}`")),
            }
        }
    }
    at.space();
    if at.at < line.len() { Err(at.broken("trailing characters")) } else { Ok(()) }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.broken(what));
        }
        self.at += 1;
        Ok(())
    }

    fn broken(&self, what: &'static str) -> Fault {
        match self.at < self.bytes.len() {
            true => Fault::Broken { what, column: self.at + 1 },
            false => Fault::Broken { what: "EOF while parsing an object", column: self.bytes.len() },
        }
    }

    /// Skips a string and returns its range, including the quotes.
    fn string(&mut self) -> Result<Range<usize>, Fault> {
        let begin = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(begin..self.at);
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(self.broken("EOF while parsing a string")),
            }
        }
    }

    /// Skips a value and returns its range.
    fn value(&mut self) -> Result<Range<usize>, Fault> {
        let begin = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => self.nested()?,
            _ => {
                while self.peek().is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'))
                {
                    self.at += 1;
                }
                let scalar = str::from_utf8(&self.bytes[begin..self.at]).unwrap_or_default();
                let named = ["true", "false", "null", "NaN", "Infinity", "-Infinity"].contains(&scalar);
                if !named && (scalar.parse::<f64>().is_err() || !scalar.contains(|c: char| c.is_ascii_digit())) {
                    self.at = begin;
                    return Err(self.broken("expected value"));
                }
            }
        }
        Ok(begin..self.at)
    }

    /// Skips matching brackets and everything inside them.
    fn nested(&mut self) -> Result<(), Fault> {
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(byte @ (b'{' | b'[')) => open.push(byte),
                Some(byte @ (b'}' | b']')) => {
                    // In ASCII, a closing bracket is the opening bracket plus 2.
                    if open.pop() != Some(byte - 2) {
                        return Err(self.broken("brackets do not match"));
                    }
                }
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(_) => {}
                None => return Err(self.broken("EOF while parsing a value")),
            }
            self.at += 1;
            if open.is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::data::text::json_line::*;

    #[test]
    fn only_the_text_matters() {
        for other in ["NaN", "-Infinity", "1e999", r#""x \udcb2""#, r#"{"a": [1, "}"]}"#, "[", "{]"] {
            let closed = !matches!(other, "[" | "{]");
            for line in
                [format!(r#"{{"o":{other},"text":"a\nb"}}"#), format!("  {{ \"text\" :\"a\\nb\" , \"o\": {other}}}\r")]
            {
                match closed {
                    true => assert_eq!(text(&line, "text").as_deref(), Ok("a\nb"), "{line}"),
                    false => assert!(matches!(text(&line, "text"), Err(Fault::Broken { .. })), "{line}"),
                }
            }
        }
        let deep = format!(r#"{{"o":{}{},"text":"x"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(text(&deep, "text").as_deref(), Ok("x"));
        assert_eq!(text(r#"{"te\u0078t": "x"}"#, "text").as_deref(), Ok("x"));
        assert_eq!(text(r#"{"text": "x", "text": "y"}"#, "text").as_deref(), Ok("y"));
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(text(r#"{"text": null}"#, "text"), Err(Fault::Null));
        assert_eq!(text(r#"{"text": ["x"]}"#, "text"), Err(Fault::NoText));
        assert_eq!(text(r#"{"a": 1, "b": 2}"#, "text"), Err(Fault::NoKey(vec!["a".to_owned(), "b".to_owned()])));
        assert!(matches!(text(r#"{"text": "\ud83d"}"#, "text"), Err(Fault::BadText(_))));
        let broken = |line: &str| match text(line, "text") {
            Err(Fault::Broken { what, column }) => (what, column),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(broken("[1]"), ("expected value", 1));
        assert_eq!(broken("{"), ("EOF while parsing an object", 1));
        assert_eq!(broken(r#"{"text": "a"} x"#), ("trailing characters", 15));
        assert_eq!(broken(r#"{"text": "a",}"#), ("key must be a string", 14));
        for line in [r#"{"a": x}"#, r#"{"a": }"#, r#"{"a": inf}"#, r#"{"a" 1}"#, r#"{"a": "\"#, r#"{a: 1}"#, ""] {
            broken(line);
        }
    }
}
