//! Describes where bytes lie among the operands of the current operation: operand, row, column, and how far outside.

use crate::device::cuda::launch::Region;
use crate::device::ops::Access;

/// An address farther away from an operand than this, in bytes, is not described by that operand.
const FAR: u64 = 1 << 40;

/// Where an address lies relative to one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This many bytes before the operand's first byte.
    Before(u64),
    /// In a row.
    Inside,
    /// In the gap between two rows, this many bytes after the end of the first.
    Between(u64),
    /// This many bytes after the end of the operand; 0 for the first byte that is outside.
    After(u64),
}

impl Place {
    /// Returns the distance in bytes to the nearest byte of the operand.
    fn steps(self) -> u64 {
        match self {
            Place::Inside => 0,
            Place::Before(bytes) => bytes,
            Place::Between(bytes) | Place::After(bytes) => bytes.saturating_add(1),
        }
    }
}

/// Returns the number of bytes from an operand's first byte to its last, gaps between rows included.
fn extent(region: &Region) -> u64 {
    let rows = &region.rows;
    (rows.rows.saturating_sub(1) as u64).saturating_mul(rows.pitch as u64).saturating_add(rows.width as u64)
}

/// Returns where an address lies relative to an operand.
fn place(region: &Region, address: u64) -> Place {
    let (rows, end) = (&region.rows, extent(region));
    let Some(offset) = address.checked_sub(rows.address) else { return Place::Before(rows.address - address) };
    let column = if rows.rows > 1 { offset % rows.pitch.max(1) as u64 } else { offset };
    match column.checked_sub(rows.width as u64) {
        _ if offset >= end => Place::After(offset - end),
        Some(after) => Place::Between(after),
        None => Place::Inside,
    }
}

/// Finds the operand that is nearest to an address. Of several at the same distance, it prefers one that may be
/// accessed in this way. Allocates nothing, because a signal handler calls it.
pub fn nearest(regions: &[Region], address: u64, write: bool) -> Option<(&Region, Place)> {
    let allowed = |region: &Region| !write || region.access != Access::Read;
    let all = regions.iter().filter(|region| region.rows.rows > 0).map(|region| (region, place(region, address)));
    let near = all.filter(|(_, place)| place.steps() < FAR);
    // Of two at the same distance: code overruns an end more often than a start.
    near.min_by_key(|(region, place)| (place.steps(), !allowed(region), matches!(place, Place::Before(_))))
}

/// Describes an access that begins inside an operand, such as "`out`, row 3, column 5"; `None` if it begins in none.
pub fn inside(regions: &[Region], address: u64, bytes: u64, write: bool) -> Option<String> {
    let (region, place) = nearest(regions, address, write)?;
    (place == Place::Inside).then(|| format!("`{}`, {}", region.name, cell(region, address, bytes)))
}

/// Describes an access that lies outside of all operands: where it would be in the nearest one, and how far outside.
pub fn outside(regions: &[Region], address: u64, bytes: u64, write: bool) -> String {
    let (what, to) = (access(bytes, write), if write { "to" } else { "of" });
    let Some((region, place)) = nearest(regions, address, write) else {
        return match address {
            0..4096 => format!("{what} at address {address:#x}: a null pointer"),
            _ => format!("{what} at {address:#x}, not near any operand"),
        };
    };
    let (rows, name) = (&region.rows, format!("`{}`", region.name));
    let how = match place {
        Place::Before(before) => format!("{} before the start of {name}", size(before, region)),
        Place::Between(after) => format!("{} after the end of the row", size(after, region)),
        Place::After(after) => format!("{} after the end of {name}", size(after, region)),
        // The first byte is inside, so the last one is not.
        Place::Inside => {
            let offset = address - rows.address;
            let row = if rows.rows > 1 { offset / rows.pitch.max(1) as u64 } else { 0 };
            let end = row * rows.pitch as u64 + rows.width as u64;
            let whole = if end >= extent(region) { &name } else { "the row" };
            format!("its last {} after the end of {whole}", size((offset + bytes).saturating_sub(end), region))
        }
    };
    let plural = if rows.rows == 1 { "" } else { "s" };
    format!(
        "{what} {to} {} of {name}, {how} ({} row{plural} of {} elements)",
        cell(region, address, bytes),
        rows.rows,
        rows.width / region.element.max(1)
    )
}

/// Describes the kind and size of an access, such as "a read of 4 bytes".
pub fn access(bytes: u64, write: bool) -> String {
    format!("a {} of {bytes} byte{}", if write { "write" } else { "read" }, if bytes == 1 { "" } else { "s" })
}

/// Describes a distance in bytes, and in elements if it is a whole number of them.
fn size(bytes: u64, region: &Region) -> String {
    let element = region.element.max(1) as u64;
    match bytes / element {
        _ if bytes == 0 => "right".into(),
        _ if bytes == 1 => "1 byte".into(),
        1 if bytes == element => format!("{bytes} bytes (1 element)"),
        n if bytes.is_multiple_of(element) => format!("{bytes} bytes ({n} elements)"),
        _ => format!("{bytes} bytes"),
    }
}

/// Describes the row and columns of an access. Outside of the operand they are negative or beyond its size.
fn cell(region: &Region, address: u64, bytes: u64) -> String {
    let (rows, element) = (&region.rows, region.element.max(1) as i64);
    let offset = address.wrapping_sub(rows.address) as i64;
    let (row, column) = match rows.rows {
        1 => (0, offset),
        _ => (offset.div_euclid(rows.pitch.max(1) as i64), offset.rem_euclid(rows.pitch.max(1) as i64)),
    };
    let (first, last) = (column.div_euclid(element), (column + bytes as i64 - 1).div_euclid(element));
    match first == last {
        true => format!("row {row}, column {first}"),
        false => format!("row {row}, columns {first} to {last}"),
    }
}

/// Returns whether an operand contains all of these bytes and may be accessed in this way.
pub fn allows(region: &Region, address: u64, bytes: u64, write: bool) -> bool {
    let rows = &region.rows;
    let Some(offset) = address.checked_sub(rows.address) else { return false };
    if write && region.access == Access::Read || rows.rows == 0 {
        return false;
    }
    let (pitch, width) = (rows.pitch.max(1) as u64, rows.width as u64);
    // Rows without gaps count as one row.
    if pitch == width {
        return offset + bytes <= width * rows.rows as u64;
    }
    offset / pitch < rows.rows as u64 && offset % pitch + bytes <= width
}

#[cfg(test)]
mod tests {
    use super::{Access, Place, Region, inside, nearest, outside};
    use crate::device::cuda::driver::Rows;

    /// `x`: 3 rows of 4 floats, 24 bytes apart, at address 1,000. `out`: 2 rows of 5 bf16 without gaps, at address
    /// 2,000.
    fn regions() -> [Region; 2] {
        let rows = |address, rows, width, pitch| Rows { address, rows, width, pitch };
        [
            Region { name: "x", rows: rows(1_000, 3, 16, 24), element: 4, access: Access::Read },
            Region { name: "out", rows: rows(2_000, 2, 10, 10), element: 2, access: Access::Write },
        ]
    }

    #[test]
    fn rows_and_columns() {
        let at = |address, bytes| inside(&regions(), address, bytes, false);
        assert_eq!(at(1_000, 4).as_deref(), Some("`x`, row 0, column 0"));
        assert_eq!(at(1_028, 8).as_deref(), Some("`x`, row 1, columns 1 to 2"));
        assert_eq!(at(2_018, 2).as_deref(), Some("`out`, row 1, column 4"));
        assert_eq!(at(2_020, 2), None);
    }

    #[test]
    fn distances() {
        let of = |address, bytes, write| outside(&regions(), address, bytes, write);
        for (address, bytes, expected) in [
            (996, 4, "a read of 4 bytes of row -1, column 5 of `x`, 4 bytes (1 element) before the start of `x`"),
            (1_020, 4, "a read of 4 bytes of row 0, column 5 of `x`, 4 bytes (1 element) after the end of the row"),
            (1_016, 2, "a read of 2 bytes of row 0, column 4 of `x`, right after the end of the row"),
            (
                1_036,
                16,
                "a read of 16 bytes of row 1, columns 3 to 6 of `x`, its last 12 bytes (3 elements) after the end of the row",
            ),
            (
                1_060,
                8,
                "a read of 8 bytes of row 2, columns 3 to 4 of `x`, its last 4 bytes (1 element) after the end of `x`",
            ),
            (1_064, 4, "a read of 4 bytes of row 2, column 4 of `x`, right after the end of `x`"),
            (1_070, 4, "a read of 4 bytes of row 2, columns 5 to 6 of `x`, 6 bytes after the end of `x`"),
        ] {
            assert_eq!(of(address, bytes, false), format!("{expected} (3 rows of 4 elements)"));
        }
        assert_eq!(
            of(2_021, 1, true),
            "a write of 1 byte to row 2, column 0 of `out`, 1 byte after the end of `out` (2 rows of 5 elements)"
        );
    }

    #[test]
    fn the_nearest_operand_is_named_and_at_equal_distance_the_one_that_allows_the_access() {
        let mut all = regions();
        let name = |all: &[Region], address, write| nearest(all, address, write).map(|(r, place)| (r.name, place));
        // `out` follows `x` without a gap.
        all[1].rows.address = 1_064;
        assert_eq!(name(&all, 1_063, false), Some(("x", Place::Inside)));
        assert_eq!(name(&all, 1_064, false), Some(("out", Place::Inside)));
        assert_eq!(name(&all, 1_084, true), Some(("out", Place::After(0))));
        // As far after the end of `x` as before the start of `out`.
        all[1].rows.address = 1_067;
        assert_eq!(name(&all, 1_065, true), Some(("out", Place::Before(2))));
        assert_eq!(name(&all, 1_065, false), Some(("x", Place::After(1))));
        assert_eq!(name(&all, 1 << 50, false), None);
        assert_eq!(outside(&all, 1 << 50, 4, true), "a write of 4 bytes at 0x4000000000000, not near any operand");
    }

    #[test]
    fn null_pointers() {
        let far = Region { rows: Rows { address: 1 << 45, rows: 1, width: 8, pitch: 8 }, ..regions()[0] };
        assert_eq!(outside(&[far], 16, 4, false), "a read of 4 bytes at address 0x10: a null pointer");
    }
}
