//! The parameters of a BERT, under Hugging Face's names.

use super::{BertConfig, BertHead, Norm};
use crate::model::params::{Axis, Fan, Init, Kind, Param, Role};

/// Returns the parameters in forward order.
pub fn params(config: &BertConfig) -> Vec<Param> {
    let &BertConfig { vocab, context, types, width, layers, ffn, init_std, norm, head, .. } = config;
    let (normal, zero, one) = (Init::Normal(init_std), Init::Constant(0.0), Init::Constant(1.0));
    let embed = || Axis::new(Fan::Out, &[(Role::Embed, width)]);
    let out = |role, size| Axis::new(Fan::Out, &[(role, size)]);
    let input = |role, size| Axis::new(Fan::In, &[(role, size)]);
    let qkv = || Axis::new(Fan::Out, &[(Role::QueryKey, width), (Role::QueryKey, width), (Role::Value, width)]);
    let table = |stem: &str, role, rows| Param::new(stem, vec![out(role, rows), embed()], Kind::Embedding, normal);
    // A weight `[out, in]` and its bias.
    let dense = |stem: &str, out: Axis, input: Axis, kind| {
        [
            Param::new(&format!("{stem}.weight"), vec![out.clone(), input], kind, normal),
            Param::new(&format!("{stem}.bias"), vec![out], kind, zero),
        ]
    };
    let layernorm = |stem: &str, kind| {
        [
            Param::new(&format!("{stem}.weight"), vec![embed()], kind, one),
            Param::new(&format!("{stem}.bias"), vec![embed()], kind, zero),
        ]
    };
    let (inner, last) = match norm {
        Norm::Post => (Kind::InnerNorm, Kind::OutputNorm),
        Norm::Pre => (Kind::Plain, Kind::Plain),
    };
    let layer = |number: usize| {
        let stem = |rest: &str| format!("bert.encoder.layer.{{}}.{rest}");
        let [weight, bias] = dense(&stem("attention.self.qkv"), qkv(), input(Role::Embed, width), Kind::Plain);
        let split = |kind: &str, shape: &[usize]| {
            let part = |name: &&str| (stem(&format!("attention.self.{name}.{kind}")), shape.to_vec());
            ["query", "key", "value"].iter().map(part).collect()
        };
        let fused = [
            Param { parts: split("weight", &[width, width]), ..weight },
            Param { parts: split("bias", &[width]), ..bias },
        ];
        let all = [
            fused,
            dense(&stem("attention.output.dense"), embed(), input(Role::Value, width), Kind::BranchOutput),
            layernorm(&stem("attention.output.LayerNorm"), inner),
            dense(&stem("intermediate.dense"), out(Role::Ffn, ffn), input(Role::Embed, width), Kind::Plain),
            dense(&stem("output.dense"), embed(), input(Role::Ffn, ffn), Kind::BranchOutput),
            layernorm(&stem("output.LayerNorm"), last),
        ];
        all.into_iter().flatten().map(move |p| Param { layer: Some(number), ..p })
    };
    let mut all = vec![
        table("bert.embeddings.word_embeddings.weight", Role::Vocab, vocab),
        table("bert.embeddings.position_embeddings.weight", Role::Position, context),
        table("bert.embeddings.token_type_embeddings.weight", Role::Type, types),
    ];
    all.extend(layernorm("bert.embeddings.LayerNorm", Kind::Plain));
    all.extend((0..layers).flat_map(layer));
    if norm == Norm::Pre {
        all.extend(layernorm("bert.encoder.LayerNorm", Kind::Plain));
    }
    let square = |stem: &str| dense(stem, embed(), input(Role::Embed, width), Kind::Plain);
    let classes = |stem: &str, n| dense(stem, out(Role::Class, n), input(Role::Embed, width), Kind::Plain);
    if !matches!(head, BertHead::None | BertHead::Masked) {
        all.extend(square("bert.pooler.dense"));
    }
    if matches!(head, BertHead::Masked | BertHead::Pretraining) {
        all.push(Param::new("cls.predictions.bias", vec![out(Role::Vocab, vocab)], Kind::Plain, zero));
        all.extend(square("cls.predictions.transform.dense"));
        all.extend(layernorm("cls.predictions.transform.LayerNorm", Kind::HeadNorm));
    }
    match head {
        BertHead::Pretraining => all.extend(classes("cls.seq_relationship", 2)),
        BertHead::Classify { labels } => all.extend(classes("classifier", labels)),
        _ => {}
    }
    all
}
