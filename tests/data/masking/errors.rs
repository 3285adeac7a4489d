//! Invalid masking settings and batches are refused.

use super::*;

#[test]
fn invalid_masking_is_refused() {
    let config = |text: &str| toml::from_str::<MaskingConfig>(text);
    assert_eq!(config("").expect("defaults"), MaskingConfig::default());
    let read = config("rate = 0.3\npack = \"documents\"\nwhole_words = true").expect("read");
    assert_eq!((read.rate, read.pack, read.whole_words, read.mask), (0.3, Pack::Documents, true, 0.8));
    for wrong in ["rates = 0.1", "pack = \"rows\"", "rate = \"x\""] {
        assert!(config(wrong).is_err(), "{wrong}");
    }
    let tokenizer = numbers(600);
    for (text, key) in [
        ("rate = 0.0", "masking.rate: 0"),
        ("rate = 1.0", "masking.rate: 1"),
        ("rate = nan", "masking.rate: NaN"),
        ("mask = -0.1", "masking.mask: -0.1"),
        ("random = 1.5", "masking.random: 1.5"),
        ("random = 0.3", "0.8 and 0.3"),
    ] {
        error_with(Masking::new(config(text).expect("a configuration"), &tokenizer, 32), &[key]);
    }
    error_with(Masking::new(MaskingConfig::default(), &tokenizer, 2), &["context of 2", "3"]);
    let byte = Tokenizer::from_spec("byte", "").expect("a tokenizer");
    error_with(Masking::new(MaskingConfig::default(), &byte, 32), &["[MASK]"]);
    let only = load(&with_tokens("WordLevel", &NAMES, &[])).expect("a tokenizer");
    error_with(Masking::new(MaskingConfig::default(), &only, 32), &["only special tokens"]);
    let pieces = load(&with_tokens("WordPiece", &NAMES, &["##a".to_owned()])).expect("a tokenizer");
    let words = MaskingConfig { whole_words: true, ..MaskingConfig::default() };
    error_with(Masking::new(words, &pieces, 32), &["masking.whole_words"]);

    let dir = folder();
    let short = [shard(dir.path(), FIRST..34, 605, None)];
    let batch = |masking: &mut Masking, tokens: &[Shard], pairs| {
        let mut made = Batch::new(masking, 2, 32, pairs);
        masking.training_batch(&SAMPLER, tokens, 0, (2, 1), &mut made.out())
    };
    let mut masking = Masking::new(MaskingConfig::default(), &tokenizer, 32).expect("masking");
    error_with(batch(&mut masking, &short, false), &["29 tokens", "30", "model.context"]);
    error_with(batch(&mut masking, &[], false), &["no token file"]);
    let mut made = Batch::new(&masking, 3, 32, false);
    error_with(masking.training_batch(&SAMPLER, &short[..], 0, (2, 2), &mut made.out()), &["2 x 32", "96"]);
    error_with(masking.training_batch(&SAMPLER, &short[..], 0, (3, 0), &mut made.out()), &["micro-batches of 0"]);
    let stray = Sampler { rank: 1, ..SAMPLER };
    error_with(masking.training_batch(&stray, &short[..], 0, (3, 3), &mut made.out()), &["rank 1"]);
    let documents = MaskingConfig { pack: Pack::Documents, next_sentence: true, ..MaskingConfig::default() };
    let mut masking = Masking::new(documents, &tokenizer, 32).expect("masking");
    error_with(batch(&mut masking, &short, true), &["0.bin", "where documents begin", "data prepare"]);
    let one = [shard(dir.path(), FIRST..34, 605, Some(&[0]))];
    error_with(batch(&mut masking, &one, true), &["1 document,", "2", "next_sentence"]);
    let windows = masking.held_out(&[shard(dir.path(), FIRST..134, 605, Some(&[0, 50]))][..]).expect("windows");
    let mut small = Masking::new(MaskingConfig::default(), &tokenizer, 16).expect("masking");
    let mut made = Batch::new(&small, 1, 16, false);
    error_with(small.held_out_batch(&one[..], &windows, 0, (1, 1), &mut made.out()), &["window 0"]);
}
