//! Formatting of numbers and text in reports.

/// Replaces control characters, so that terminals, XML and HTML can show text from files and their names.
pub fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => '\u{FFFD}',
        c => c,
    };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// Escapes text for HTML and XML elements and attributes; also makes it [`printable`].
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Formats a number with three digits and an exponent that is a multiple of three: `8.84e12`.
pub fn engineering(value: f64) -> String {
    let exponent = if value >= 1.0 { value.log10().floor() as i32 / 3 * 3 } else { 0 };
    let (mantissa, exponent) = match value / 10f64.powi(exponent) {
        // Rounding would carry this to 1000.
        m if m >= 999.5 => (m / 1000.0, exponent + 3),
        m => (m, exponent),
    };
    if mantissa == 0.0 {
        return "0".to_string();
    }
    let digits = if mantissa >= 99.95 { 0 } else { 1 + usize::from(mantissa < 9.995) };
    match exponent {
        0 => format!("{mantissa:.digits$}"),
        e => format!("{mantissa:.digits$}e{e}"),
    }
}

/// Formats seconds, with two decimals below 10 s and one above.
pub fn in_seconds(seconds: f64) -> String {
    format!("{seconds:.0$}", if seconds < 10.0 { 2 } else { 1 })
}

/// Formats a fraction as `20.0 %`.
pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// Formats seconds as seconds, minutes or hours.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_whatever_rounding_does() {
        let cases =
            [(0.0, "0"), (1.0, "1.00"), (999.4, "999"), (999.6, "1.00e3"), (8.841e12, "8.84e12"), (99.96e9, "100e9")];
        for (value, text) in cases {
            assert_eq!(engineering(value), text);
        }
        assert_eq!(engineering(u64::MAX as f64), "18.4e18");
    }
}
