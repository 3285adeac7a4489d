//! What runs were worth, read from the files they left: compared in numbers ([`compare`]), in pictures ([`curves`], drawn
//! by [`plot`]), and on a page of their own ([`html`]); and where a device's time went ([`trace`]).

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
