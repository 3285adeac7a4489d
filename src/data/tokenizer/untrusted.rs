//! Guards the tokenizers library against a malicious or damaged `tokenizer.json`.
//!
//! The library panics on some files (for example on a `Precompiled` normalizer with a damaged table), replaces text by
//! text of any length, and unrolls the repetition counts of a pattern.

use super::failed;
use crate::bail;
use crate::data::loader::prefetch::MORE_THREADS;
use crate::error::{Error, Result};
use serde_json::Value;
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The largest factor by which replacements may lengthen a text. Published ones replace a character by one or two.
const MOST_GROWTH: usize = 256;
/// The largest product of the repetition counts of a pattern (such as the 3 in `\d{1,3}`).
const MOST_REPEATS: usize = 10_000;
/// The largest size of an added token in bytes. The work of the library is quadratic in it. Published ones have at most
/// a hundred bytes.
const MOST_ADDED: usize = 4096;
/// The number of ids without a token that is accepted in any vocabulary.
const FREE_GAPS: usize = 1 << 16;

/// Calls the library and turns a panic into an error.
pub(in crate::data) fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    /// The number of calls in progress on all threads.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    thread_local! {
        static CALLING: Cell<bool> = const { Cell::new(false) };
    }
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            // The threads of the library have no names. A panic there is propagated to the call.
            let theirs = CALLS.load(Ordering::SeqCst) > 0 && thread::current().name().is_none();
            if !CALLING.get() && !theirs {
                before(panic);
            }
        }));
    });
    CALLS.fetch_add(1, Ordering::SeqCst);
    CALLING.set(true);
    let done = catch_unwind(AssertUnwindSafe(f));
    CALLING.set(false);
    CALLS.fetch_sub(1, Ordering::SeqCst);
    match done {
        Ok(result) => result.map_err(failed),
        Err(panic) if panic.downcast_ref::<String>().is_some_and(|text| text.contains("ThreadPoolBuildError")) => {
            Err(Error::new(format!("cannot start threads for the tokenizer; {MORE_THREADS}")))
        }
        Err(_) => Err(Error::new("the tokenizers library failed: the tokenizer is damaged or of an unsupported kind")),
    }
}

/// Rejects a `tokenizer.json` with replacements or patterns whose work is unbounded.
///
/// # Errors
/// Fails if an added token is too long, or if a pattern or the replacements of a part exceed the limits of this module.
pub(in crate::data) fn check(json: &Value) -> Result<()> {
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let length = |token: &Value| token["content"].as_str().map_or(0, str::len);
    if let Some(longest) = added.iter().map(length).max().filter(|&longest| longest > MOST_ADDED) {
        bail!(
            "added_tokens: a token has {longest} bytes, and reading one of more than {MOST_ADDED} would take hours; \
             remove the token"
        );
    }
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let mut growth = 1usize;
        walk(&json[part], &mut |object| {
            if let Some(pattern) = object.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str) {
                let repeats = repeats(pattern);
                if repeats > MOST_REPEATS {
                    bail!(
                        "{part}: the repetition counts in the pattern {pattern:?} multiply to {repeats}; use a simpler \
                         pattern"
                    );
                }
            }
            if let Some(content) = object.get("content").and_then(Value::as_str) {
                let replaced = object.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
                growth = growth.saturating_mul(content.len().div_ceil(replaced.map_or(1, |p| p.len().max(1))).max(1));
            }
            if let Some(prepended) = object.get("prepend").and_then(Value::as_str) {
                growth = growth.saturating_mul(prepended.len().max(1));
            }
            Ok(())
        })?;
        if growth > MOST_GROWTH {
            bail!("{part}: its replacements can make a text {growth} times as long; use another tokenizer");
        }
    }
    Ok(())
}

/// Visits every object. The recursion is bounded because the JSON parser limits the depth.
fn walk(value: &Value, visit: &mut dyn FnMut(&serde_json::Map<String, Value>) -> Result<()>) -> Result<()> {
    match value {
        Value::Object(map) => {
            visit(map)?;
            map.values().try_for_each(|value| walk(value, visit))
        }
        Value::Array(items) => items.iter().try_for_each(|value| walk(value, visit)),
        _ => Ok(()),
    }
}

/// Returns the product of the largest counts in braces, an upper bound on the factor by which the pattern is unrolled.
fn repeats(pattern: &str) -> usize {
    let counts = pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(count, _)| count);
    let largest = counts.map(|count| count.split(',').filter_map(|n| n.trim().parse::<usize>().ok()).max());
    largest.flatten().fold(1, |product, n| product.saturating_mul(n.max(1)))
}

/// Returns the vocabulary size: one more than `largest`, the largest id of the `tokens` tokens.
///
/// # Errors
/// Fails if so many ids have no token that an embedding would mostly consist of unused rows.
pub(in crate::data) fn check_ids(largest: u32, tokens: usize) -> Result<usize> {
    let size = largest as usize + 1;
    let gaps = size.saturating_sub(tokens);
    if gaps > tokens.max(FREE_GAPS) {
        bail!(
            "{tokens} tokens have ids up to {largest}, but a model needs an embedding row for each id; number the \
             tokens without gaps"
        );
    }
    Ok(size)
}

/// Rejects tokens that share an id: one of them could never be decoded, and would be lost when the tokenizer is saved.
///
/// # Errors
/// Fails if two tokens have the same id.
pub(in crate::data) fn check_distinct(vocab: &HashMap<String, u32>) -> Result<()> {
    let mut tokens: Vec<(u32, &str)> = vocab.iter().map(|(token, &id)| (id, token.as_str())).collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => bail!(
            "the tokens {:?} and {:?} both have id {}; renumber the tokens, or fetch the tokenizer again",
            pair[0].1,
            pair[1].1,
            pair[0].0
        ),
        None => Ok(()),
    }
}
