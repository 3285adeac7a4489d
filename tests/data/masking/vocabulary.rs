//! The kinds of a tokenizer's ids, and its special tokens.

use super::*;

#[test]
fn word_starts_follow_the_kind_of_tokenizer() {
    let kinds = |tokenizer: &Tokenizer, text: &str| -> String {
        let (kinds, ids) = (tokenizer.kinds(), tokenizer.encode(text).expect("encoded"));
        let letter = |id: &u32| match kinds[*id as usize] {
            TokenKind::Begins => 'B',
            TokenKind::Continues => 'c',
            TokenKind::Special => 'S',
            TokenKind::Absent => '-',
        };
        ids.iter().map(letter).collect()
    };
    let byte = Tokenizer::from_spec("byte", "").expect("a tokenizer");
    assert_eq!(kinds(&byte, "to be\n\u{120}x"), "ccBccBccc");
    let char = Tokenizer::from_spec("char", "to be\n\u{120}x").expect("a tokenizer");
    assert_eq!(kinds(&char, "to be\n\u{120}x?"), "ccBccBccS");
    let bpe = Tokenizer::from_spec("bpe:300", &"the cats catsup\n".repeat(50)).expect("a tokenizer");
    let (ids, found) = (bpe.encode("the catsup cats").expect("encoded"), kinds(&bpe, "the catsup cats"));
    for (id, kind) in ids.iter().zip(found.chars()) {
        let begins = bpe.decode(&[*id]).expect("decoded").starts_with(' ');
        assert_eq!(kind, if begins { 'B' } else { 'c' });
    }
    assert_eq!(found.matches('B').count(), 2);
    let pieces = ["cat", "##s", "##up"].map(str::to_owned);
    let word_piece = load(&with_tokens("WordPiece", &NAMES, &pieces)).expect("a tokenizer");
    assert_eq!(kinds(&word_piece, "cats catsup [MASK] dog"), "BcBccSS");
    assert_eq!(kinds(&numbers(3), "w0 w1 [SEP]"), "BBS");
}

#[test]
fn special_tokens_are_found_or_added_at_the_end() {
    let roberta = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
    let mut json = with_tokens("WordLevel", &roberta, &["a".to_owned()]);
    json["model"]["unk_token"] = json!("<unk>");
    let found = load(&json).expect("a tokenizer").special_tokens().expect("all are there");
    assert_eq!((found.cls, found.pad, found.sep, found.unk, found.mask), (0, 1, 2, Some(3), 4));

    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    for (spec, added) in [("byte", 5), ("bpe:280", 5), ("char", 4)] {
        let text = "the men, ten men\n".repeat(40);
        let before = Tokenizer::from_spec(spec, &text).expect("a tokenizer");
        let size = before.vocab_size();
        error_with(before.special_tokens(), &["[MASK]", "[CLS]"]);
        let plain = before.encode(&text).expect("encoded");
        let after = before.with_special_tokens().expect("extended");
        let special = after.special_tokens().expect("all are there");
        assert_eq!(
            (special.pad, special.mask, after.vocab_size()),
            (size as u32, (size + added - 1) as u32, size + added)
        );
        assert_eq!(after.encode(&text).expect("encoded"), plain);
        assert_eq!(after.decode(&plain).expect("decoded"), text);
        assert_eq!(after.encode("[MASK]the").expect("encoded")[0], special.mask);
        after.save(&path).expect("saved");
        let again = Tokenizer::load(&path).expect("loaded").with_special_tokens().expect("complete");
        assert_eq!((again.special_tokens().expect("all"), again.vocab_size()), (special, size + added));
    }
    // The tokenizers library adds the special tokens around a text.
    let theirs = tokenizers::Tokenizer::from_file(&path).expect("loaded");
    let pair = theirs.encode(("the", "men"), true).expect("encoded");
    let special = Tokenizer::load(&path).expect("loaded").special_tokens().expect("all are there");
    assert_eq!((pair.get_ids()[0], pair.get_ids()[4], pair.get_ids()[8]), (special.cls, special.sep, special.sep));
    assert_eq!(pair.get_type_ids(), [0, 0, 0, 0, 0, 1, 1, 1, 1]);

    let mut gpt = with_tokens("WordLevel", &["<|endoftext|>"], &["a".to_owned()]);
    gpt["model"]["unk_token"] = json!("<|endoftext|>");
    error_with(load(&gpt).expect("a tokenizer").with_special_tokens(), &["[PAD], [CLS], [SEP], [MASK]", "bpe:N"]);
}

#[test]
fn a_corpus_gets_special_tokens_and_a_larger_vocabulary() {
    let dir = folder();
    let text = dir.path().join("text.txt");
    fs::write(&text, "a line of text\n".repeat(200)).expect("written");
    let held_out = HeldOut { prefix: None, every: 10 };
    let spec = DataSpec { text, tokenizer: "byte".to_owned(), held_out, field: "text".to_owned() };
    let open = |source: DataSource| Corpus::open(&source, dir.path(), &mut |_| {}).expect("data");
    let plain = open(DataSource::Text(spec.clone()));
    let (name, train) = (plain.name(), plain.train.as_ref().as_ref()[0].path().to_owned());
    let extended = plain.with_special_tokens().expect("extended");
    assert_eq!(extended.vocab_size, 261);
    assert_ne!(extended.name(), name);
    let mut masking =
        Masking::new(MaskingConfig::default(), extended.tokenizer.as_ref().expect("a tokenizer"), 16).expect("masking");
    let mut made = Batch::new(&masking, 2, 16, false);
    masking.training_batch(&SAMPLER, &*extended.train, 0, (2, 2), &mut made.out()).expect("a batch");
    // The cached data is unchanged.
    assert_eq!(open(DataSource::Text(spec)).vocab_size, 256);
    let files = ShardsSpec { train: vec![train.clone()], valid: vec![train], tokenizer: None, vocab: None };
    error_with(open(DataSource::Shards(files)).with_special_tokens(), &["data.tokenizer: missing", "[MASK]"]);
}
