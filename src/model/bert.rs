//! BERT (Devlin et al., 2019): its sizes.

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// After each residual sum, as published.
    Post,
    /// Before each branch.
    Pre,
}

/// What follows the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BertHead {
    None,
    Pooler,
    Masked,
    Pretraining,
    Classify { labels: usize },
}

#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    pub vocab: usize,
    pub context: usize,
    pub types: usize,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    pub ffn: usize,
    pub eps: f64,
    pub init_std: f64,
    pub dropout_hidden: f32,
    pub dropout_attention: f32,
    pub pad: u32,
    pub norm: Norm,
    pub head: BertHead,
}
