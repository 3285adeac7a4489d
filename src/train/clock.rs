use crate::device::Device;
use crate::device::timing::Total;
use crate::runlog::OperationTime;

/// Times of a branch over all processes that have trained it.
#[derive(Default)]
pub(super) struct Clock {
    /// Time per operation in earlier processes.
    pub before: Vec<OperationTime>,
    /// Seconds spent waiting for batches in earlier processes.
    pub waited: f64,
    /// The device's timers when this branch began in this process.
    at_start: Vec<Total>,
}

impl Clock {
    /// Notes the device's timers: what they count from now on belongs to this branch.
    pub fn start(&mut self, device: &mut dyn Device) {
        self.at_start = device.timings().totals().collect();
    }

    /// Returns the time per operation: in this process, plus that in the processes before it.
    pub fn operations(&self, device: &mut dyn Device) -> Vec<OperationTime> {
        let mut all = self.before.clone();
        for (now, start) in device.timings().totals().zip(&self.at_start) {
            let (calls, seconds) = (now.calls - start.calls, now.seconds - start.seconds);
            let flops = now.flops - start.flops;
            match all.iter_mut().find(|before| before.name == now.name) {
                Some(before) => {
                    before.calls += calls;
                    before.seconds += seconds;
                    before.flops += flops;
                }
                None if calls > 0 => all.push(OperationTime { name: now.name.into(), calls, seconds, flops }),
                None => {}
            }
        }
        all
    }
}
