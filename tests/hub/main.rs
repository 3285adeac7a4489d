//! Model folders of `transformers`, timm and PyTorch: tensor names, configurations, weight formats.

mod configs;
mod files;
mod names;
mod torch_writer;
mod weights;
