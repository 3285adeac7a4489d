//! The parameters of a DeiT, under timm's names.

use super::{DeitConfig, Distillation};
use crate::model::params::{Axis, Fan, Init, Kind, Param, Role};

/// Returns the parameters in forward order.
pub fn params(config: &DeitConfig) -> Vec<Param> {
    let &DeitConfig { width, layers, ffn, init_std, classes, distillation, patch, channels, .. } = config;
    let (specials, tokens, pixels) = (config.specials(), config.tokens(), config.pixels());
    let (normal, zero, one) = (Init::Normal(init_std), Init::Constant(0.0), Init::Constant(1.0));
    let embed = || Axis::new(Fan::Out, &[(Role::Embed, width)]);
    let out = |role, size| Axis::new(Fan::Out, &[(role, size)]);
    let input = |role, size| Axis::new(Fan::In, &[(role, size)]);
    let qkv = || Axis::new(Fan::Out, &[(Role::QueryKey, width), (Role::QueryKey, width), (Role::Value, width)]);
    // A weight `[out, in]` and its bias.
    let dense = |stem: &str, out: Axis, input: Axis, kind| {
        [
            Param::new(&format!("{stem}.weight"), vec![out.clone(), input], kind, normal),
            Param::new(&format!("{stem}.bias"), vec![out], kind, zero),
        ]
    };
    let layernorm = |stem: &str| {
        [
            Param::new(&format!("{stem}.weight"), vec![embed()], Kind::Plain, one),
            Param::new(&format!("{stem}.bias"), vec![embed()], Kind::Plain, zero),
        ]
    };
    let block = |number: usize| {
        let stem = |rest: &str| format!("blocks.{{}}.{rest}");
        let all = [
            layernorm(&stem("norm1")),
            dense(&stem("attn.qkv"), qkv(), input(Role::Embed, width), Kind::Plain),
            dense(&stem("attn.proj"), embed(), input(Role::Value, width), Kind::BranchOutput),
            layernorm(&stem("norm2")),
            dense(&stem("mlp.fc1"), out(Role::Ffn, ffn), input(Role::Embed, width), Kind::Plain),
            dense(&stem("mlp.fc2"), embed(), input(Role::Ffn, ffn), Kind::BranchOutput),
        ];
        all.into_iter().flatten().map(move |p| Param { layer: Some(number), ..p })
    };
    // As in timm, weight decay does not apply to tokens and positions.
    let mut names =
        vec![("patch_embed.proj.bias".to_string(), vec![width]), ("cls_token".to_string(), vec![1, 1, width])];
    names.extend((specials > 1).then(|| ("dist_token".to_string(), vec![1, 1, width])));
    let mut all = vec![
        Param {
            parts: names,
            decay: false,
            ..Param::new("tokens", vec![out(Role::Type, 1 + specials), embed()], Kind::Plain, normal)
        },
        Param {
            parts: vec![("pos_embed".to_string(), vec![1, tokens, width])],
            decay: false,
            ..Param::new("pos_embed", vec![out(Role::Position, tokens), embed()], Kind::Plain, normal)
        },
        Param {
            parts: vec![("patch_embed.proj.weight".to_string(), vec![width, channels, patch, patch])],
            ..Param::new("patch_embed.proj.weight", vec![embed(), input(Role::Patch, pixels)], Kind::Plain, normal)
        },
    ];
    all.extend((0..layers).flat_map(block));
    all.extend(layernorm("norm"));
    let head = |stem: &str| dense(stem, out(Role::Class, classes), input(Role::Embed, width), Kind::Plain);
    all.extend(head("head"));
    if distillation == Distillation::Head {
        all.extend(head("head_dist"));
    }
    all
}
