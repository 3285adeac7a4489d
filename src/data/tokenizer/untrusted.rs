//! What a `tokenizer.json` of unknown origin may do to the tokenizers library, and how that is kept in bounds.
//!
//! The library panics on some files (a `Precompiled` normalizer whose table is damaged, for one), replaces text by texts of
//! any length, and unrolls the counts of a pattern.

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

/// The most that replacements may lengthen a text. Published ones exchange a character for one or two.
const MOST_GROWTH: usize = 256;
/// The most that the counts of a pattern, as 3 in `\d{1,3}`, may multiply to.
const MOST_REPEATS: usize = 10_000;
/// Bytes of an added token, for which the library's work grows with the square. Published ones have a hundred at most.
const MOST_ADDED: usize = 4096;
/// Ids without a token that are fine in any vocabulary.
const FREE_GAPS: usize = 1 << 16;

/// Runs code of the library; a panic in it is an error.
pub(in crate::data) fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    /// Calls under way on all threads.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    thread_local! {
        static CALLING: Cell<bool> = const { Cell::new(false) };
    }
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            // The library's own threads have no names; a panic there ends up in the call as well.
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
            Err(Error::new(format!("the system starts no more threads for the tokenizer; {MORE_THREADS}")))
        }
        Err(_) => Err(Error::new(
            "the tokenizers library broke off: the tokenizer is damaged or of a kind it cannot handle; save it again from \
             the tokenizers library",
        )),
    }
}

/// Refuses replacements and patterns whose work has no bounds.
pub(in crate::data) fn check(json: &Value) -> Result<()> {
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let length = |token: &Value| token["content"].as_str().map_or(0, str::len);
    if let Some(longest) = added.iter().map(length).max().filter(|&longest| longest > MOST_ADDED) {
        bail!(
            "added_tokens: a token has {longest} bytes; reading more than {MOST_ADDED} would take hours: remove the token"
        );
    }
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let mut growth = 1usize;
        walk(&json[part], &mut |object| {
            if let Some(pattern) = object.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str) {
                let repeats = repeats(pattern);
                if repeats > MOST_REPEATS {
                    bail!("{part}: the counts in the pattern {pattern:?} multiply to {repeats}; use a simpler pattern");
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
            bail!("{part}: its replacements may make a text {growth} times as long; use another tokenizer");
        }
    }
    Ok(())
}

/// Visits every object; the parser limits how deep they lie.
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

/// The product of the counts in braces, each taken at its largest: no less than what the pattern unrolls to.
fn repeats(pattern: &str) -> usize {
    let counts = pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(count, _)| count);
    let largest = counts.map(|count| count.split(',').filter_map(|n| n.trim().parse::<usize>().ok()).max());
    largest.flatten().fold(1, |product, n| product.saturating_mul(n.max(1)))
}

/// Refuses a vocabulary with more ids than an embedding could sensibly have rows for its tokens. `largest` is the largest id
/// of `tokens`.
pub(in crate::data) fn check_ids(largest: u32, tokens: usize) -> Result<usize> {
    let size = largest as usize + 1;
    let gaps = size.saturating_sub(tokens);
    if gaps > tokens.max(FREE_GAPS) {
        bail!(
            "{tokens} tokens have ids up to {largest}, and a model needs a row for each id; number the tokens without gaps"
        );
    }
    Ok(size)
}

/// Refuses tokens that share an id: one of them could never be read back, and would be lost when the tokenizer is saved.
pub(in crate::data) fn check_distinct(vocab: &HashMap<String, u32>) -> Result<()> {
    let mut tokens: Vec<(u32, &str)> = vocab.iter().map(|(token, &id)| (id, token.as_str())).collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => bail!(
            "the tokens {:?} and {:?} both have id {}; number the tokens anew, or fetch the tokenizer again",
            pair[0].1,
            pair[1].1,
            pair[0].0
        ),
        None => Ok(()),
    }
}
