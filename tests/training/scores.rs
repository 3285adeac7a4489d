//! Promise: classification metrics, correlations, perplexity and last-word accuracy equal values computed by hand.

use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::shard::{Shard, write_shard};
use vcycle::device::Device;
use vcycle::device::cpu::Cpu;
use vcycle::error::Result;
use vcycle::eval::Forward;
use vcycle::eval::lambada::{last_words, read_passages};
use vcycle::eval::metrics::{accuracy, f1, matthews, pearson, spearman};
use vcycle::eval::perplexity::{Perplexity, perplexity};
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;

/// Equal up to the rounding of a few dozen operations on numbers of this size.
fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 64.0 * f64::EPSILON * wanted.abs().max(1.0), "{found}, not {wanted}");
}

fn error_with<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, expected one with {parts:?}") };
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "not all of {parts:?} are in: {text}");
}

#[test]
fn classification_metrics_match_values_computed_by_hand() {
    // 2 true and 1 false positives, 1 true and 1 false negatives.
    let (predicted, labels) = ([1, 0, 1, 1, 0], [1, 0, 0, 1, 1]);
    close(accuracy(&predicted, &labels).unwrap(), 3.0 / 5.0);
    close(f1(&predicted, &labels, 1).unwrap(), 2.0 / 3.0);
    close(f1(&predicted, &labels, 0).unwrap(), 0.5);
    close(matthews(&predicted, &labels).unwrap(), (2.0 - 1.0) / 6.0);
    // 4 of 6 correct; the classes are predicted 2, 3 and 1 times, and each occurs twice:
    // (4 6 - 12) / sqrt((36 - 14) (36 - 12)).
    close(matthews(&[0, 1, 1, 1, 2, 0], &[0, 0, 1, 1, 2, 2]).unwrap(), 12.0 / 528f64.sqrt());
    close(matthews(&[1, 0, 0], &[0, 1, 1]).unwrap(), -1.0);
    assert_eq!((matthews(&[1, 1], &[0, 1]).unwrap(), f1(&[0, 0], &[0, 0], 1).unwrap()), (0.0, 0.0));
    error_with(accuracy(&[1], &[1, 0]), &["1 predictions for 2 labels"]);
    error_with(matthews(&[], &[]), &["0 predictions"]);
}

#[test]
fn correlations_match_values_computed_by_hand() {
    let rise = [1.0, 2.0, 3.0, 4.0];
    close(pearson(&rise, &[2.0, 1.0, 4.0, 3.0]).unwrap(), 3.0 / 5.0);
    // Cubes minus their mean: -24, -17, 2, 39.
    let cubes = [1.0, 8.0, 27.0, 64.0];
    close(pearson(&rise, &cubes).unwrap(), 104.0 / (5f64 * 2390.0).sqrt());
    close(spearman(&rise, &cubes).unwrap(), 1.0);
    close(spearman(&rise, &[4.0, 3.0, 2.0, -1.0]).unwrap(), -1.0);
    // Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4.
    close(spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 3.0, 2.0, 4.0]).unwrap(), 4.5 / 22.5f64.sqrt());
    assert!(pearson(&rise, &[5.0; 4]).unwrap().is_nan());
    error_with(spearman(&rise, &[]), &["4 predictions for 0 labels"]);
}

#[test]
fn perplexity_per_word_divides_the_total_loss_by_the_words() {
    let result = Perplexity { tokens: 10, loss: 2.0 };
    close(result.per_word(5), 4f64.exp());
    close(result.per_word(10), result.perplexity());
}

/// A small model with weights far from zero, so that what a token sees matters.
fn gpt() -> Gpt {
    let config = GptConfig {
        vocab: 13,
        context: 8,
        width: 8,
        heads: 2,
        layers: 2,
        ffn: 32,
        eps: 1e-5,
        init_std: 0.7,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    };
    Gpt::new(config).unwrap()
}

#[test]
fn perplexity_with_a_stride_matches_scoring_token_by_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.bin");
    let tokens: Vec<u32> = (0..38u32).map(|i| i * i * 7 % 13).collect();
    write_shard(&path, &tokens, 13).unwrap();
    let shard = Shard::open(&path).unwrap();
    let (gpt, mut cpu) = (gpt(), Cpu::new(1));
    let device: &mut dyn Device = &mut cpu;
    let store = Store::new(gpt.table().clone(), device).unwrap();
    store.initialise(device, 5).unwrap();
    let (batch, context) = (3, 8);
    let mut forward = Forward::new(device, &gpt, &store, (batch, context)).unwrap();
    let mut losses = Vec::new();
    for stride in 1..=context {
        let found = perplexity(device, &mut forward, &shard, (batch, context), stride).unwrap();
        // Score each token in the first window that contains it and at least one token before it.
        let mut sum = 0.0;
        for target in 1..tokens.len() {
            let begin = target.saturating_sub(context).next_multiple_of(stride);
            let seen: Vec<i32> = tokens[begin..target].iter().map(|&token| token as i32).collect();
            let row = forward.next(device, &seen, seen.len() - 1).unwrap();
            let all: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum += all.ln() - f64::from(row[tokens[target] as usize]);
        }
        let wanted = sum / (tokens.len() - 1) as f64;
        assert_eq!(found.tokens, tokens.len() - 1);
        assert!((found.loss - wanted).abs() < 2e-6 * wanted, "stride {stride}: {}, not {wanted}", found.loss);
        losses.push(found.loss);
    }
    assert!(losses.windows(2).all(|pair| pair[0] != pair[1]), "{losses:?}");
    for stride in [0, context + 1] {
        error_with(perplexity(device, &mut forward, &shard, (batch, context), stride), &["stride", "1..=8"]);
    }
}

/// Returns a model for which, after each byte of `chain`, the next byte of `chain` is three times as likely as any
/// other byte.
fn model(chain: &str, most: usize) -> impl FnMut(&[i32]) -> Result<Vec<f32>> {
    move |ids| {
        assert!((1..=most).contains(&ids.len()), "{} tokens", ids.len());
        let row = |&id: &i32| {
            let mut row = vec![0.0; 256];
            if let Some(pair) = chain.as_bytes().windows(2).find(|pair| i32::from(pair[0]) == id) {
                row[usize::from(pair[1])] = 3f32.ln();
            }
            row
        };
        Ok(ids.iter().flat_map(row).collect())
    }
}

#[test]
fn a_last_word_is_correct_if_all_its_tokens_are() {
    let byte = Tokenizer::from_spec("byte", "").unwrap();
    let passages = ["some x abc", "x abd", "more x abc  "].map(str::to_owned);
    let found = last_words(&passages, &byte, 64, &mut model("x abc", 64)).unwrap();
    // A word with its space has four bytes; the model does not predict the last byte of "abd".
    assert_eq!((found.words, found.correct, found.tokens), (3, 2, 12));
    let (right, wrong) = ((258f64 / 3.0).ln(), 258f64.ln());
    // The logit of the model is ln 3 as an f32.
    let within = (found.loss - (11.0 * right + wrong) / 3.0).abs();
    assert!(within < 1e-6, "{within}");
    close(found.accuracy(), 2.0 / 3.0);
    close(found.perplexity(), found.loss.exp());
    // Of a longer passage the model sees as many tokens as fit, up to the one before the last token of the word.
    let cut = last_words(&passages[..1], &byte, 4, &mut model("x abc", 4)).unwrap();
    assert_eq!((cut.correct, cut.tokens), (1, 4));
    error_with(
        last_words(&passages[..1], &byte, 3, &mut model("x abc", 3)),
        &["passage 1", "4 tokens", "context of 3"],
    );
    let one = ["ab c".to_owned(), "word".to_owned()];
    error_with(last_words(&one, &byte, 64, &mut model("x", 64)), &["passage 2", "\"word\""]);
    let small = |ids: &[i32]| Ok(vec![0.0; 99 * ids.len()]);
    error_with(last_words(&one[..1], &byte, 64, &mut { small }), &["token 99"]);
}

#[test]
fn passages_are_read_from_lines_or_from_jsonl() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let lines = read_passages(&file("a.txt", "one two\r\n\r\n three four\n")).unwrap();
    assert_eq!(lines, ["one two", " three four"]);
    let json = file("a.jsonl", "{\"text\": \"one\\ntwo\"}\n{\"text\": \"three\"}\n");
    assert_eq!(read_passages(&json).unwrap(), ["one\ntwo", "three"]);
    error_with(read_passages(&file("b.txt", " \n\n ")), &["b.txt"]);
}
