//! Promise: where the schedule decides about a result, the message names both schedules, the first element that differs, and that
//! this is perhaps a race.

use vcycle::device::cuda::driver::emulator::Options;
use vcycle::device::cuda::variants::ladder;
use vcycle::parity::kernels::{QUICK, emulated, sites};

/// Without its only barrier and without checks, the first column is summed by a thread that runs first in one order, and last in the
/// other.
#[test]
fn other_bits_name_schedules_and_element() {
    let variant = ladder("column_sum").find(|v| v.name == "vector").expect("a variant");
    let own = |file: &str| file == "kernels/column_sum.cu";
    let barriers: Vec<_> = sites(variant).expect("sites").into_iter().filter(|site| own(&site.file)).collect();
    let schedules = Options::schedules(false).map(|o| Options { drop: barriers.last().cloned(), ..o });
    let error = emulated(variant, &schedules, QUICK).err().expect("a difference").to_string();
    let begins = "other bits on emulator (order reverse, copies at once) than on emulator (order forward, copies late): row 0, \
                  column 0 of `out` is ";
    let ends = ", not NaN (ffffffff); perhaps a race, whose lines `vcycle kernels check column_sum --shadow` names";
    assert!(error.contains(begins) && error.ends_with(ends), "{error}");
}
