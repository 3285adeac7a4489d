//! Promise: tensors are found under all published naming schemes; an error names tensors that are missing, unknown,
//! duplicated or not equal to those they are tied to; and writing restores the names, shapes and bits of the file.

use std::collections::BTreeMap;

use vcycle::error::Result;
use vcycle::hub::names::{Family, Names, Selected, begin, select};
use vcycle::hub::tensors::NamedTensor;

/// Returns a tensor with distinct values that depend on its name.
fn tensor(name: &str, shape: &[usize]) -> NamedTensor {
    let first: u32 = name.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let values = (0..shape.iter().product::<usize>()).map(|i| (first % 100_003) as f32 + i as f32 / 64.0).collect();
    NamedTensor { name: name.to_owned(), shape: shape.to_vec(), values }
}

fn tensors(list: &[(String, Vec<usize>)]) -> Vec<NamedTensor> {
    list.iter().map(|(name, shape)| tensor(name, shape)).collect()
}

fn shape(name: &str) -> Vec<usize> {
    let is_bias = name.ends_with("bias");
    match name {
        _ if name.ends_with("cls_token") || name.ends_with("dist_token") || name.ends_with("distillation_token") => {
            vec![1, 1, 4]
        }
        _ if name.ends_with("pos_embed") || name.ends_with("position_embeddings") => vec![1, 6, 4],
        _ if name.ends_with("proj.weight") && name.contains("patch") => vec![4, 3, 2, 2],
        _ if name.ends_with("projection.weight") => vec![4, 3, 2, 2],
        _ if name.contains("qkv") => {
            if is_bias {
                vec![12]
            } else {
                vec![12, 4]
            }
        }
        _ if name.contains("word_embeddings")
            || name.ends_with("decoder.weight")
            || name.contains("wte")
            || name == "lm_head.weight" =>
        {
            vec![9, 4]
        }
        _ if name.ends_with("predictions.bias") || name.ends_with("decoder.bias") => vec![9],
        _ if is_bias || name.to_lowercase().contains("norm") => vec![4],
        _ => vec![4, 4],
    }
}

fn listed(names: &[String]) -> Vec<(String, Vec<usize>)> {
    names.iter().map(|name| (name.clone(), shape(name))).collect()
}

fn both(stems: &[&str]) -> Vec<String> {
    stems.iter().flat_map(|stem| [format!("{stem}.weight"), format!("{stem}.bias")]).collect()
}

/// The table of a BERT with two layers: the encoder, and the head for masked tokens.
fn bert() -> (Vec<String>, Vec<String>) {
    let mut encoder: Vec<String> =
        ["word", "position", "token_type"].iter().map(|e| format!("bert.embeddings.{e}_embeddings.weight")).collect();
    encoder.extend(both(&["bert.embeddings.LayerNorm"]));
    for layer in 0..2 {
        let parts = [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ];
        encoder.extend(parts.iter().flat_map(|part| both(&[&format!("bert.encoder.layer.{layer}.{part}")])));
    }
    let mut head = vec!["cls.predictions.bias".to_owned()];
    head.extend(both(&["cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"]));
    (encoder, head)
}

fn bert_shape(name: &str) -> Vec<usize> {
    if name.ends_with("position_embeddings.weight") { vec![6, 4] } else { shape(name) }
}

fn bert_listed(names: &[String]) -> Vec<(String, Vec<usize>)> {
    names.iter().map(|name| (name.clone(), bert_shape(name))).collect()
}

/// The tensors of a vision transformer under the names of timm, and of transformers with separate queries, keys and
/// values.
fn vit(names: Names) -> (Vec<String>, Vec<String>) {
    let (prefix, heads) = match names {
        Names::DeitWithTeacher => ("deit.", ["cls_classifier", "distillation_classifier"]),
        Names::Deit => ("deit.", ["classifier", ""]),
        _ => ("vit.", ["classifier", ""]),
    };
    let mut ours = vec!["cls_token".to_owned(), "pos_embed".to_owned()];
    let mut theirs = vec![format!("{prefix}embeddings.cls_token"), format!("{prefix}embeddings.position_embeddings")];
    if prefix == "deit." {
        ours.push("dist_token".to_owned());
        theirs.push(format!("{prefix}embeddings.distillation_token"));
    }
    ours.extend(both(&["patch_embed.proj", "norm", "head"]));
    theirs.extend(both(&[
        &format!("{prefix}embeddings.patch_embeddings.projection"),
        &format!("{prefix}layernorm"),
        heads[0],
    ]));
    if names == Names::DeitWithTeacher {
        ours.extend(both(&["head_dist"]));
        theirs.extend(both(&[heads[1]]));
    }
    for layer in 0..2 {
        for part in ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"] {
            ours.extend(both(&[&format!("blocks.{layer}.{part}")]));
        }
        for part in [
            "layernorm_before",
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
            "layernorm_after",
            "intermediate.dense",
            "output.dense",
        ] {
            theirs.extend(both(&[&format!("{prefix}encoder.layer.{layer}.{part}")]));
        }
    }
    (ours, theirs)
}

fn sorted(tensors: Vec<NamedTensor>) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    tensors.into_iter().map(|t| (t.name, (t.shape, bits(t.values)))).collect()
}

#[track_caller]
fn assert_round_trip(
    family: Family,
    file: Vec<NamedTensor>,
    wanted: &[(String, Vec<usize>)],
    names: Names,
) -> Selected {
    let found = select(family, file.clone(), wanted).unwrap();
    let found_list: Vec<_> = found.tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
    assert_eq!(found_list, wanted);
    assert_eq!(found.names, names);
    assert_eq!(sorted(names.publish(found.tensors.clone()).unwrap()), sorted(file));
    found
}

#[track_caller]
fn assert_refused(found: Result<Selected>, parts: &[&str]) {
    let message = found.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn vision_transformers_of_timm_and_of_transformers() {
    for names in [Names::Vit, Names::Deit, Names::DeitWithTeacher] {
        let (ours, theirs) = vit(names);
        let (wanted, theirs) = (listed(&ours), tensors(&listed(&theirs)));
        assert_round_trip(Family::Vit, tensors(&wanted), &wanted, Names::Timm);
        let found = assert_round_trip(Family::Vit, theirs.clone(), &wanted, names);
        // Queries, then keys, then values.
        let values = |name: &str| theirs.iter().find(|t| t.name.ends_with(name)).unwrap().values.clone();
        let parts = ["query", "key", "value"].map(|part| values(&format!("layer.1.attention.attention.{part}.weight")));
        let fused = found.tensors.iter().find(|t| t.name == "blocks.1.attn.qkv.weight").unwrap();
        assert_eq!(fused.values, parts.concat());
        let token = found.tensors.iter().find(|t| t.name == "cls_token").unwrap();
        assert_eq!(token.values, values("embeddings.cls_token"));

        let without = |part: &str| theirs.iter().filter(|t| !t.name.contains(part)).cloned().collect::<Vec<_>>();
        assert_refused(
            select(Family::Vit, without("layer.1.attention.attention.key.weight"), &wanted),
            &["missing", "layer.1.attention.attention.key.weight"],
        );
        assert_refused(
            select(Family::Vit, without("layer.0.attention.attention"), &wanted),
            &["missing", "blocks.0.attn.qkv"],
        );
        let mut misshapen = theirs.clone();
        let key = misshapen.iter_mut().find(|t| t.name.ends_with("key.bias")).unwrap();
        (key.shape, key.values) = (vec![], vec![1.0]);
        assert_refused(select(Family::Vit, misshapen, &wanted), &["key.bias", "one shape"]);
        let mut twice = theirs.clone();
        twice.extend(tensors(&wanted));
        assert_refused(select(Family::Vit, twice, &wanted), &["twice"]);
    }
    // A pooler is a head that is not used. A distillation token is not a head.
    let wanted = listed(&vit(Names::Vit).0);
    let mut more = tensors(&listed(&vit(Names::Vit).1));
    more.push(tensor("vit.pooler.dense.weight", &[4, 4]));
    assert_eq!(select(Family::Vit, more.clone(), &wanted).unwrap().unused, ["vit.pooler.dense.weight"]);
    more.push(tensor("vit.embeddings.distillation_token", &[1, 1, 4]));
    assert_refused(select(Family::Vit, more, &wanted), &["does not have", "distillation_token"]);
    // The head for a teacher may neither be left out nor be missing.
    let (with, without) = (vit(Names::DeitWithTeacher), vit(Names::Deit));
    assert_refused(
        select(Family::Vit, tensors(&listed(&with.1)), &listed(&without.0)),
        &["does not have", "distillation_classifier.weight"],
    );
    assert_refused(
        select(Family::Vit, tensors(&listed(&without.1)), &listed(&with.0)),
        &["missing", "head_dist.weight"],
    );
    let odd = vec![tensor("blocks.0.attn.qkv.weight", &[4, 4])];
    assert!(Names::Vit.publish(odd).unwrap_err().to_string().contains("blocks.0.attn.qkv.weight"));
    assert!(Names::Vit.publish(vec![tensor("blocks.0.ls1.gamma", &[4])]).unwrap_err().to_string().contains("ls1"));
}

#[test]
fn bert_with_and_without_prefix_and_heads() {
    let (encoder, head) = bert();
    let all: Vec<String> = encoder.iter().chain(&head).cloned().collect();
    let (wanted, bare) = (bert_listed(&all), bert_listed(&encoder));
    assert_round_trip(Family::Bert, tensors(&wanted), &wanted, Names::Bert);
    let without_prefix: Vec<_> =
        bare.iter().map(|(name, shape)| (name.strip_prefix("bert.").unwrap().to_owned(), shape.clone())).collect();
    assert_round_trip(Family::Bert, tensors(&without_prefix), &bare, Names::BertBare);

    // A model without a head, from a file with all heads: the unused tensors are listed, not dropped silently.
    let mut file = tensors(&wanted);
    let extra = [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.predictions.decoder.weight",
    ];
    file.extend(extra.map(|name| tensor(name, &bert_shape(name))));
    file.push(tensor("bert.embeddings.position_ids", &[1, 6]));
    let found = select(Family::Bert, file.clone(), &bare).unwrap();
    let mut unused: Vec<&str> = head.iter().map(String::as_str).chain(extra).collect();
    unused.sort_unstable();
    assert_eq!(found.unused, unused);
    assert_eq!(found.tensors.len(), bare.len());
    // The other way round, tensors are missing.
    assert_refused(select(Family::Bert, tensors(&bare), &wanted), &["missing", "cls.predictions.bias"]);
    let mut unknown = tensors(&wanted);
    unknown.push(tensor("bert.encoder.layer.2.output.dense.bias", &[4]));
    assert_refused(select(Family::Bert, unknown, &wanted), &["does not have", "layer.2.output.dense.bias"]);
    let mut other = wanted.clone();
    other[0].1 = vec![10, 4];
    assert_refused(select(Family::Bert, tensors(&wanted), &other), &["word_embeddings", "[9, 4]", "[10, 4]"]);
}

#[test]
fn old_names_of_norms() {
    let wanted = bert_listed(&bert().0);
    let old: Vec<_> = tensors(&wanted)
        .into_iter()
        .map(|t| {
            let name =
                t.name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            NamedTensor { name, ..t }
        })
        .collect();
    let found = select(Family::Bert, old.clone(), &wanted).unwrap();
    assert_eq!(sorted(found.tensors), sorted(tensors(&wanted)));
    let norms = tensors(&wanted).into_iter().filter(|t| t.name.contains("LayerNorm"));
    let both: Vec<_> = old.into_iter().chain(norms).collect();
    assert_refused(select(Family::Bert, both, &wanted), &["twice", "LayerNorm"]);
}

#[test]
fn shared_weights_must_be_equal() {
    let (encoder, head) = bert();
    let wanted = bert_listed(&encoder.into_iter().chain(head).collect::<Vec<_>>());
    for (second, first) in [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ] {
        let mut file = tensors(&wanted);
        let original = file.iter().find(|t| t.name == first).unwrap().clone();
        file.push(NamedTensor { name: second.to_owned(), ..original.clone() });
        let found = select(Family::Bert, file.clone(), &wanted).unwrap();
        assert!(found.unused.is_empty());
        assert_eq!(sorted(found.tensors), sorted(tensors(&wanted)));
        // The file has only the second of the two.
        let alone: Vec<_> = file.iter().filter(|t| t.name != first).cloned().collect();
        assert_eq!(sorted(select(Family::Bert, alone, &wanted).unwrap().tensors), sorted(tensors(&wanted)));
        *file.last_mut().unwrap().values.last_mut().unwrap() += 1.0;
        assert_refused(select(Family::Bert, file, &wanted), &[second, first, "differs"]);
    }
}

#[test]
fn gpt2_with_and_without_prefix_and_with_a_head_of_its_own() {
    let mut names = vec!["transformer.wte.weight".to_owned(), "transformer.wpe.weight".to_owned()];
    names.extend(both(&["transformer.h.0.ln_1", "transformer.h.0.attn.c_attn", "transformer.ln_f"]));
    let wanted = listed(&names);
    assert_round_trip(Family::Gpt2, tensors(&wanted), &wanted, Names::Gpt2);
    let bare: Vec<_> = wanted
        .iter()
        .map(|(name, shape)| (name.strip_prefix("transformer.").unwrap().to_owned(), shape.clone()))
        .collect();
    assert_round_trip(Family::Gpt2, tensors(&bare), &wanted, Names::Gpt2Bare);

    let mut file = tensors(&wanted);
    file.push(tensor("transformer.h.0.attn.bias", &[1, 1, 6, 6]));
    let embedding = file[0].clone();
    file.push(NamedTensor { name: "lm_head.weight".to_owned(), ..embedding });
    assert_eq!(sorted(select(Family::Gpt2, file.clone(), &wanted).unwrap().tensors), sorted(tensors(&wanted)));
    file.last_mut().unwrap().values[0] += 1.0;
    assert_refused(select(Family::Gpt2, file.clone(), &wanted), &["lm_head.weight", "transformer.wte.weight"]);
    let mut untied = wanted.clone();
    untied.push(("lm_head.weight".to_owned(), vec![9, 4]));
    let own = select(Family::Gpt2, file, &untied).unwrap();
    assert_eq!((own.tensors.len(), own.tensors.last().unwrap().name.as_str()), (untied.len(), "lm_head.weight"));
    assert_refused(select(Family::Gpt2, tensors(&wanted), &untied), &["missing", "lm_head.weight"]);
}

#[test]
fn a_model_may_begin_with_other_heads_and_with_nothing_else() {
    let (encoder, head) = bert();
    let new = both(&["bert.pooler.dense", "classifier"]);
    let wanted = bert_listed(&[encoder.clone(), new.clone()].concat());
    let file = |names: &[String]| tensors(&bert_listed(names));
    let found = begin(Family::Bert, file(&[encoder.clone(), head.clone()].concat()), &wanted).unwrap();
    let there: Vec<bool> = found.tensors.iter().map(Option::is_some).collect();
    assert_eq!(there, [vec![true; encoder.len()], vec![false; new.len()]].concat());
    let mut left = head;
    left.sort();
    assert_eq!(found.unused, left);
    // A head of the same name, for another number of classes.
    let mut others = wanted.clone();
    others[encoder.len() + 2].1 = vec![3, 4];
    let found = begin(Family::Bert, file(&[encoder.clone(), new.clone()].concat()), &others).unwrap();
    let names: Vec<_> = found.tensors.iter().flatten().map(|tensor| tensor.name.as_str()).collect();
    assert!(names.contains(&"bert.pooler.dense.weight") && !names.contains(&"classifier.weight"), "{names:?}");
    assert_eq!(found.unused, ["classifier.weight"]);
    // Tensors that do not belong to a head must be present in the right shape, and there must be no unknown ones.
    let refused = |names: &[String], wanted: &[(String, Vec<usize>)], words: &[&str]| {
        let text = begin(Family::Bert, file(names), wanted).expect_err("refused").to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused(&encoder[1..], &wanted, &["missing", &encoder[0]]);
    let mut bent = wanted.clone();
    bent[0].1 = vec![3, 4];
    refused(&encoder, &bent, &[&encoder[0], "[3, 4]"]);
    let odd = "bert.encoder.layer.0.odd.weight".to_owned();
    refused(&[encoder.clone(), vec![odd.clone()]].concat(), &wanted, &[&odd]);
}
