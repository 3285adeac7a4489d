//! Evaluation of a level in training on the held-out data.

use super::state::TrainState;
use super::trainer::Trainer;
use crate::bail;
use crate::config::TrainConfig;
use crate::data::loader::batch::{Field, Source};
use crate::error::Result;
use crate::eval::held_out::Means;
use crate::eval::metrics::{MetricsAccumulator, TaskMetrics};
use crate::memory;
use crate::runlog::{Eval, Event};
use std::sync::Arc;
use std::time::Instant;

/// The held-out batches, and the results of the last evaluation.
pub(super) struct Evaluation {
    source: Arc<dyn Source>,
    /// Buffers for a batch.
    fields: Vec<Field>,
    /// Held-out loss of the last evaluation. Infinite before the first.
    pub loss: f64,
    /// Metrics of the last evaluation in this process, for images and labelled texts.
    pub measures: Option<TaskMetrics>,
}

impl Evaluation {
    /// Allocates buffers for a micro-batch.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(source: Arc<dyn Source>, train: &TrainConfig) -> Result<Self> {
        let fields = source.allocate(train.batch / train.accumulate)?;
        Ok(Evaluation { source, fields, loss: f64::INFINITY, measures: None })
    }
}

impl Trainer<'_, '_> {
    /// Evaluates up to `most` held-out batches. Returns the mean loss, the number of scored labels, and the FLOPs
    /// spent; adds the predictions to `agreement`.
    pub(super) fn held_out(
        &mut self,
        train_state: &mut TrainState,
        most: usize,
        mut agreement: Option<&mut MetricsAccumulator>,
    ) -> Result<(f64, usize, u64)> {
        let train = &self.context.config.train;
        let Evaluation { source, fields, .. } = &mut self.evaluation;
        let (mut means, mut flops) = (Means::default(), 0);
        // `most` counts whole batches; each is evaluated in `accumulate` micro-batches.
        for index in 0..most.saturating_mul(train.accumulate) {
            let Some(scored) = source.held_out_batch(index, fields)? else { break };
            train_state.evaluate(self.context.device, fields, &mut means)?;
            if let Some(agreement) = &mut agreement {
                agreement.add(&train_state.scores(self.context.device)?, fields, scored);
            }
            flops += train_state.evaluation_flops();
        }
        Ok((means.loss(), means.scored(), flops))
    }

    /// Evaluates the model on held-out data, as `train.eval_batches` says, and logs the result.
    pub(super) fn evaluate(&mut self, train_state: &mut TrainState) -> Result<()> {
        let most = match self.context.config.train.eval_batches {
            0 => usize::MAX,
            n => n,
        };
        self.context.data.check_unchanged()?;
        let begin = Instant::now();
        let mut agreement = MetricsAccumulator::of(&*train_state.model);
        let (loss, tokens, _) = self.held_out(train_state, most, agreement.as_mut())?;
        self.context.device.timings().mark("evaluation", self.at.step, begin);
        if !loss.is_finite() {
            bail!("training diverged: held-out loss {loss}; lower the learning rate or lengthen the warm-up");
        }
        let measures = agreement.map(|agreement| agreement.measures()).transpose()?;
        (self.evaluation.loss, self.evaluation.measures) = (loss, measures);
        if let Some(measures) = &measures {
            let text = format!("  after step {}: held-out loss {loss:.4}, {measures}", self.stage_step);
            self.context.progress.note(&text);
        }
        let (measures, resident_bytes) = (measures.map(Into::into), memory::resident().map(|(now, _)| now));
        self.metrics.write(&Event::Eval(Eval { at: self.at, loss, tokens, measures, resident_bytes }))
    }
}
