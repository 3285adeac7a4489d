use crate::bail;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// The data type that a step computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in the device's own float type: f32, or f64 on the reference device.
    #[default]
    F32,
    /// Activations and their gradients in bf16; everything else in f32, including accumulators, losses and parameters.
    Bf16,
}

impl Precision {
    /// Returns the data type that a device computes in at this precision.
    ///
    /// # Errors
    /// The device does not support it. The message names the devices that do.
    pub fn of(self, device: &dyn Device) -> Result<DType> {
        match self {
            Precision::F32 => Ok(device.float()),
            Precision::Bf16 if device.computes_in(DType::BF16) => Ok(DType::BF16),
            Precision::Bf16 => bail!(
                "train.precision: the device {} does not compute in bf16; use \"f32\", or --device cuda or emulator",
                device.name()
            ),
        }
    }
}
