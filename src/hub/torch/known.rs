//! The Python names that a pickle of `torch.save` may refer to.

use safetensors::Dtype;

use crate::bail;
use crate::error::Result;

/// A Python name that a pickle may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `defaultdict` and `Counter`. Their arguments are ignored.
    OtherDict,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `_rebuild_parameter`.
    RebuildParameter,
    /// A storage type, such as `FloatStorage`.
    Storage(Dtype),
    /// Plain data that training scripts save next to weights: options, NumPy numbers and arrays, paths, dates, types.
    /// It is not built; an opaque value stands in for it.
    Data,
}

/// Looks up a name.
///
/// # Errors
/// The name is not on the list of tensor functions and plain data.
pub fn known(module: &str, name: &str) -> Result<Name> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Name::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Name::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Name::RebuildParameter,
        ("collections", "defaultdict" | "Counter") => Name::OtherDict,
        (module, name) if is_data(module, name) => Name::Data,
        ("torch", "FloatStorage") => Name::Storage(Dtype::F32),
        ("torch", "HalfStorage") => Name::Storage(Dtype::F16),
        ("torch", "BFloat16Storage") => Name::Storage(Dtype::BF16),
        ("torch", "DoubleStorage") => Name::Storage(Dtype::F64),
        ("torch", "LongStorage") => Name::Storage(Dtype::I64),
        ("torch", "IntStorage") => Name::Storage(Dtype::I32),
        ("torch", "ShortStorage") => Name::Storage(Dtype::I16),
        ("torch", "CharStorage") => Name::Storage(Dtype::I8),
        ("torch", "ByteStorage") => Name::Storage(Dtype::U8),
        ("torch", "BoolStorage") => Name::Storage(Dtype::BOOL),
        _ => bail!(
            "refused: this file refers to {module}.{name} in Python, but only tensors are read; if you trust the file, \
             save only its weights: torch.save(model.state_dict(), path)"
        ),
    })
}

/// Whether a name is plain data. PyTorch itself accepts most of these with `weights_only=True`.
fn is_data(module: &str, name: &str) -> bool {
    match module {
        "argparse" => name == "Namespace",
        "builtins" | "__builtin__" => {
            matches!(
                name,
                "set"
                    | "frozenset"
                    | "bytearray"
                    | "complex"
                    | "int"
                    | "float"
                    | "bool"
                    | "str"
                    | "list"
                    | "dict"
                    | "tuple"
            )
        }
        "_codecs" => name == "encode",
        "datetime" => matches!(name, "date" | "datetime" | "time" | "timedelta" | "timezone"),
        "numpy" => matches!(name, "dtype" | "ndarray"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => matches!(name, "scalar" | "_reconstruct"),
        "pathlib" | "pathlib._local" => {
            matches!(name, "Path" | "PosixPath" | "WindowsPath" | "PurePath" | "PurePosixPath" | "PureWindowsPath")
        }
        // Hyperparameters of Lightning.
        "pytorch_lightning.utilities.parsing" | "lightning.pytorch.utilities.parsing" => name == "AttributeDict",
        "torch" => matches!(
            name,
            "Size"
                | "device"
                | "float16"
                | "bfloat16"
                | "float32"
                | "float64"
                | "int8"
                | "int16"
                | "int32"
                | "int64"
                | "uint8"
                | "bool"
        ),
        _ => false,
    }
}
