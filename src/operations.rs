//! The list of all operations, the only one in the crate.

/// Calls the macro `$each` with every operation: `stem { name: Type, ... }`.
///
/// The stem is the name of the operation's file in `device/ops/`, `device/cpu/`, `device/cuda/launch/` and `parity/`,
/// which take their modules from this list. The name is that of messages, of `vcycle kernels`, and of the methods of the
/// devices. The type is the struct in `device::ops`. Whatever a new line here lacks, the compiler or
/// `tests/kernels` names.
///
/// ```
/// macro_rules! names {
///     ($($stem:ident { $($name:ident: $op:ident),+ })+) => { [$($(stringify!($name)),+),+] };
/// }
/// let names = vcycle::operations!(names);
/// assert!(names.contains(&"layernorm") && names.contains(&"layernorm_backward"));
/// ```
#[macro_export]
macro_rules! operations {
    ($each:ident) => {
        $each! {
            accumulate { accumulate: Accumulate }
            activation { activation: ActivationBackward }
            adamw { adamw: AdamW }
            attention { attention: Attention, attention_backward: AttentionBackward }
            column_sum { column_sum: ColumnSum }
            cross_entropy { cross_entropy: CrossEntropy }
            dropout { dropout: Dropout }
            embedding { embedding: Embedding, embedding_backward: EmbeddingBackward }
            fill { fill: Fill }
            global_norm { global_norm: GlobalNorm }
            layernorm { layernorm: LayerNorm, layernorm_backward: LayerNormBackward }
            linear { linear: Linear }
            multilevel { multilevel: Multilevel }
            squared_error { squared_error: SquaredError }
            update { update: Update }
        }
    };
}
