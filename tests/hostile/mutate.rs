//! Seeded mutations of valid files: bytes, JSON, TOML, and other things in place of a file.
//!
//! Every generator returns a list of [`Case`]s, the same for the same seed. To test a new kind of file, make a valid
//! one, pass its bytes to [`bytes`] with the offsets where its parts begin and, if it is JSON, its value to [`json`];
//! pass each case to `judge::judge` together with the function that reads the file; and call [`in_place_of`] with its
//! path.

use serde_json::Value;
use std::path::Path;

/// A mutated file.
pub struct Case {
    /// What was changed, for messages.
    pub name: String,
    pub bytes: Vec<u8>,
}

fn case(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Case {
    Case { name: name.into(), bytes: bytes.into() }
}

/// Random numbers that depend only on the seed: splitmix64 (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Truncations at each of `places` and one byte before and after it; and `count` each of flipped bits, inserted bytes,
/// runs of up to eight bytes set to 0 or 255, and swapped bytes. Half of these lie before the last place, because
/// changes to headers do the most harm.
pub fn bytes(valid: &[u8], places: &[usize], seed: u64, count: usize) -> Vec<Case> {
    let mut random = Random(seed);
    let mut cases = vec![
        case("empty", ""),
        case("repeated", [valid, valid].concat()),
        case("one more byte", [valid, &[0]].concat()),
    ];
    for &place in places {
        for at in [place.saturating_sub(1), place, place + 1] {
            if at < valid.len() {
                cases.push(case(format!("cut at {at}"), &valid[..at]));
            }
        }
    }
    let header = places.last().map_or(valid.len(), |&place| place.clamp(1, valid.len()));
    let mut place = |number: usize| random.below(if number.is_multiple_of(2) { header } else { valid.len() });
    for number in 0..count {
        let (at, other) = (place(number), place(number));
        cases.push(flip(valid, at, (other % 8) as u32));
        let mut inserted = valid.to_vec();
        inserted.insert(at, b"0{\"[-\xff"[other % 6]);
        cases.push(case(format!("inserted at {at}"), inserted));
        let end = (at + 1 + other % 8).min(valid.len());
        for fill in [0, 0xff] {
            let mut filled = valid.to_vec();
            filled[at..end].fill(fill);
            cases.push(case(format!("{at}..{end} are {fill}"), filled));
        }
        let mut swapped = valid.to_vec();
        swapped.swap(at, other);
        cases.push(case(format!("{at} and {other} swapped"), swapped));
    }
    cases.retain(|c| c.bytes != valid);
    cases
}

/// One flipped bit.
pub fn flip(valid: &[u8], at: usize, bit: u32) -> Case {
    let mut flipped = valid.to_vec();
    flipped[at] ^= 1 << bit;
    case(format!("bit {bit} of byte {at} flipped"), flipped)
}

/// JSON values that are rarely valid for a key: wrong types, numbers at and beyond the limits of their types, and text
/// that is not JSON.
const JSON: &[&[u8]] = &[
    b"null",
    b"true",
    b"0",
    b"1",
    b"-1",
    b"1.5",
    b"-0.0",
    b"1e308",
    b"1e999",
    b"NaN",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"4294967296",
    b"1099511627776",
    b"9223372036854775807",
    b"18446744073709551615",
    b"18446744073709551616",
    b"\"\"",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\"\xff\xfe\"",
    b"[]",
    b"[null]",
    b"{}",
    b"{\"a\":{\"a\":1}}",
    b"",
];

/// For `count` random places in a value: a hostile value there, the member removed, and the member duplicated. Also
/// values that are nested too deeply.
pub fn json(valid: &Value, seed: u64, count: usize) -> Vec<Case> {
    const MARK: &str = "\"@mark@\"";
    let mut random = Random(seed);
    let mut places = Vec::new();
    walk(valid, String::new(), &mut places);
    let deep = |open: &str| open.repeat(200_000);
    let mut cases = vec![case("deep lists", deep("[")), case("deep objects", deep("{\"a\":"))];
    let with = |place: &str, text: &[u8]| {
        let mut marked = valid.clone();
        if let Some(value) = marked.pointer_mut(place) {
            *value = "@mark@".into();
        }
        let whole = marked.to_string();
        let (before, after) = whole.split_once(MARK).expect("a mark");
        [before.as_bytes(), text, after.as_bytes()].concat()
    };
    for _ in 0..count {
        let place = &places[random.below(places.len())];
        let text = JSON[random.below(JSON.len())];
        cases.push(case(format!("{place} is {}", String::from_utf8_lossy(text)), with(place, text)));
        let place = &places[random.below(places.len())];
        let long = format!("\"{}\"", "a".repeat(100_000));
        let nested = format!("{}0{}", "[".repeat(100), "]".repeat(100));
        let text = if random.below(2) == 0 { long } else { nested };
        cases.push(case(format!("{place} is {}...", &text[..9]), with(place, text.as_bytes())));
        let place = &places[random.below(places.len())];
        let Some((parent, key)) = place.rsplit_once('/') else { continue };
        let mut without = valid.clone();
        if let Some(Value::Object(map)) = without.pointer_mut(parent) {
            let value = map.remove(key).unwrap_or_default();
            cases.push(case(format!("{place} is missing"), without.to_string()));
            let twice = format!("{value},{}:{value}", Value::from(key));
            cases.push(case(format!("{place} is duplicated"), with(place, twice.as_bytes())));
        }
    }
    cases
}

/// Collects the JSON pointers of all values. Keys with `/` or `~` would have to be escaped; these files have none that
/// matter.
fn walk(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, format!("{at}/{key}"), places)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| walk(value, format!("{at}/{i}"), places)),
        _ => {}
    }
    if !at.contains('~') {
        places.push(at);
    }
}

const TOML: &[&str] = &[
    "0",
    "1",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-320",
    "\"\"",
    "\"two\"",
    "true",
    "[]",
    "[[]]",
    "{}",
    "1979-05-27",
    "07:32:00",
    "2147483647",
    "4294967296",
    "1000000000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "0x7fffffffffffffff",
    "\"\\u0000\"",
    "[[0, 9223372036854775807]]",
    "",
];

/// Every line `key = value` with every hostile value, without the line, and with the line duplicated. Also values that
/// are nested too deeply.
pub fn toml(valid: &str) -> Vec<Case> {
    let lines: Vec<&str> = valid.lines().collect();
    let with = |i: usize, line: &str| {
        let mut changed = lines.clone();
        changed[i] = line;
        changed.join("\n")
    };
    let mut cases = vec![
        case("deep lists", format!("a = {}", "[".repeat(100_000))),
        case("deep tables", format!("[{}a]", "a.".repeat(100_000))),
        case("deep keys", format!("{}a = 1", "a.".repeat(100_000))),
        case("not UTF-8", b"seed = 1 # \xff".to_vec()),
    ];
    for (i, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        for value in TOML {
            cases.push(case(format!("{key} = {value}"), with(i, &format!("{key} = {value}"))));
        }
        cases.push(case(format!("{key} is missing"), with(i, "")));
        cases.push(case(format!("{key} is duplicated"), with(i, &format!("{line}\n{line}"))));
    }
    cases
}

/// Puts things that are not readable files in place of `path`, one after the other, and calls `each` with their names:
/// a folder, a file of a terabyte, a link to itself, a dangling link, a link to an endless device, and a pipe without a
/// writer.
pub fn in_place_of(path: &Path, mut each: impl FnMut(&str)) {
    let clear = || {
        // Only one of these succeeds.
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_dir(path);
    };
    clear();
    std::fs::create_dir(path).expect("a folder");
    each("a folder");
    clear();
    if let Ok(file) = std::fs::File::create(path)
        && file.set_len(1 << 40).is_ok()
    {
        each("a terabyte");
    }
    clear();
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        for (name, target) in [
            ("a link to itself", path),
            ("a link to nothing", Path::new("/nowhere/at/all")),
            ("a link to a device", Path::new("/dev/zero")),
        ] {
            symlink(target, path).expect("a link");
            each(name);
            clear();
        }
        let made = std::process::Command::new("mkfifo").arg(path).status();
        if made.is_ok_and(|status| status.success()) {
            each("a pipe");
        }
        clear();
    }
}
