//! The operations that the program performs with a tokenizer.

use harness::{Case, same};
use vcycle::data::tokenizer::Tokenizer;

const TEXT: &str =
    "Some words, and 12 more.\n\nA line  with spaces\tand ünïcödé 日本 🦊\r\n<a>[MASK]<|endoftext|> the end";

/// Loads the file `name` in the case's folder, or with an empty name the folder itself, and uses the tokenizer.
pub fn used(case: &Case, name: &str) -> Option<Tokenizer> {
    let path = if name.is_empty() { case.dir.clone() } else { case.dir.join(name) };
    let tokenizer = case.accepted(Tokenizer::load(&path), "case")?;
    let size = tokenizer.vocab_size();
    same("kinds", &tokenizer.kinds().len(), &size);
    case.accepted(tokenizer.special_tokens(), "").inspect(|special| {
        assert!([special.pad, special.cls, special.sep, special.mask].iter().all(|&id| (id as usize) < size));
    });
    let ids = case.accepted(tokenizer.encode(TEXT), "");
    if let Some(ids) = &ids {
        assert!(ids.iter().all(|&id| (id as usize) < size), "{ids:?} of {size}");
        same("encoded again", &tokenizer.encode(TEXT).ok().as_ref(), &Some(ids));
        let decoded = case.accepted(tokenizer.decode(ids), "");
        assert!(
            decoded.is_none_or(|text| text.len() <= 300 * TEXT.len().max(ids.len())),
            "the decoded text is too long"
        );
    }
    case.accepted(tokenizer.encode(""), "");
    case.accepted(tokenizer.decode(&(0..size.min(100) as u32).collect::<Vec<_>>()), "");
    let saved = case.dir.join("saved.json");
    tokenizer.save(&saved).expect("a tokenizer that was read");
    let again = Tokenizer::load(&saved).unwrap_or_else(|e| panic!("a saved tokenizer is rejected: {e}"));
    same("the vocabulary", &again.sum(), &tokenizer.sum());
    same("the tokens", &case.accepted(again.encode(TEXT), ""), &ids);
    if let Some(special) = case.accepted(again.with_special_tokens(), "") {
        special.special_tokens().expect("it has them now");
    }
    Some(tokenizer)
}
