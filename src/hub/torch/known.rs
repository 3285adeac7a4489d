//! What a pickle of `torch.save` may name.

use safetensors::Dtype;

use crate::bail;
use crate::error::Result;

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    OrderedDict,
    /// `defaultdict` and `Counter`, whose arguments are not read.
    OtherDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
    /// What training scripts keep beside weights: options, numbers and arrays of NumPy, paths, dates, types. Nothing of it is made:
    /// it is one value like any other, whatever it is made of.
    Data,
}

/// Refuses every name but those of plain data.
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
            "this file asks Python for {module}.{name}, and nothing but tensors is read from it; refused. If you trust it, \
             save its weights alone: torch.save(model.state_dict(), path)"
        ),
    })
}

/// Plain data, most of which PyTorch itself reads where nothing but weights is asked for.
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
