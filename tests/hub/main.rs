//! Model folders of Hugging Face, timm and PyTorch: names, configurations, forms of weights.

mod configs;
mod files;
mod names;
mod torch_writer;
mod weights;
