//! How a stage begins: `transition` carries out what the growth method has planned (initial weights, coalescing, or
//! interpolation), and [`alpha_search`] finds the interpolation weight by a line search. The plans themselves are in
//! [`crate::multilevel::methods`].

pub mod alpha_search;
pub(crate) mod transition;
