//! DeiT (Touvron et al., 2021): its sizes.

#[derive(Clone, Debug, PartialEq)]
pub struct DeitConfig {
    pub image: usize,
    pub patch: usize,
    pub channels: usize,
    pub classes: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    pub ffn: usize,
    pub eps: f64,
    pub init_std: f64,
    pub distilled: bool,
    pub dropout: f32,
    pub drop_path: f32,
}
