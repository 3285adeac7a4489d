//! Reports on runs, made from the files that they wrote: comparisons in numbers ([`compare`]) and pictures ([`curves`],
//! drawn by [`plot`]), an HTML page for each run ([`html`]), and traces of where a device spends its time ([`trace`]).

pub mod canvas;
pub mod compare;
mod configs;
pub mod curves;
pub mod html;
pub mod measures;
pub mod page;
pub mod plot;
pub mod run;
pub mod savings;
pub mod text;
pub mod trace;
