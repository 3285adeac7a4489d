//! Promise: if a result depends on the schedule, the message names both schedules and the first element that differs,
//! and says that this may be a race.

use vcycle::device::cuda::driver::emulator::Options;
use vcycle::device::cuda::variants::variants_of;
use vcycle::parity::kernels::{QUICK, emulated, sites};

/// The kernel runs without its only barrier and without checks. The first column is then summed by a thread that runs
/// first in one order and last in the other.
#[test]
fn other_bits_name_schedules_and_element() {
    let variant = variants_of("column_sum").find(|v| v.name == "vec16").expect("a variant");
    let own = |file: &str| file == "kernels/column_sum.cu";
    let barriers: Vec<_> = sites(variant).expect("sites").into_iter().filter(|site| own(&site.file)).collect();
    let schedules = Options::schedules(false).map(|o| Options { drop: barriers.last().cloned(), ..o });
    let error = emulated(variant, &schedules, QUICK).err().expect("a difference").to_string();
    let begins = "emulator (order reverse, copies at once) and emulator (order forward, copies late) give different \
                  bits: row 0, column 0 of `out` is ";
    let ends = ", not NaN (ffffffff); possibly a race: `vcycle kernels check column_sum --shadow` names its lines";
    assert!(error.contains(begins) && error.ends_with(ends), "{error}");
}
