//! What runs were worth, read from the files they left: compared in numbers ([`compare`]), in pictures ([`curves`], drawn
//! by [`plot`]), and on a page of their own ([`html`]); and where a device's time went ([`trace`]).

pub mod compare;
pub mod curves;
pub mod html;
pub mod page;
pub mod plot;
pub mod run;
pub mod savings;
<<<<<<< HEAD
pub mod trace;

/// Text from files and their names as a terminal, XML and HTML can show it: no control characters.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => '\u{FFFD}',
        c => c,
    };
    text.chars().map(shown).collect()
}
=======
pub mod text;
>>>>>>> report
