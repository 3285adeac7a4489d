//! TODO

pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod linear;
