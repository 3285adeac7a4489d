//! A model on the held-out side of a run's data: its loss, of images how often it names the class, and of labelled texts how well
//! it agrees with the labels.

use crate::data::batch::{Field, Source};
use crate::data::inputs::Inputs;
use crate::device::ops::StepState;
use crate::device::{self, Device};
use crate::error::Result;
use crate::eval::metrics::{Agreement, Measures};
use crate::model::store::Store;
use crate::model::{BatchShape, Family, Model};
use crate::tape::{Mode, Tape};
use crate::tensor::Place;

/// What a model reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Labels that were scored.
    pub scored: usize,
    /// Nats per label; of numbers, the mean squared error.
    pub loss: f64,
    /// Of images, the shares whose class has the highest score, and one of the five highest.
    pub top: Option<[f64; 2]>,
    /// Of labelled texts.
    pub measures: Option<Measures>,
}

/// Scores all held-out batches.
///
/// # Errors
/// Data that does not fit the model; errors of the device.
pub fn held_out(
    device: &mut dyn Device,
    model: &dyn Model,
    store: &Store,
    source: &dyn Source,
    shape: BatchShape,
) -> Result<HeldOut> {
    let float = device.float();
    let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
    let mut inputs = Inputs::new(device, model, shape, float)?;
    let (mut tape, mut vars) = (Tape::new(float, state), Vec::new());
    let mut fields = source.room(shape.batch)?;
    let is_image = matches!(model.family(), Family::Deit(_));
    let mut agreement = Agreement::of(model);
    let (mut total, mut scored, mut hits) = (0.0, 0, [0usize; 2]);
    for index in 0.. {
        let Some(labels) = source.held_out_batch(index, &mut fields)? else { break };
        inputs.micro_batches(&fields)?;
        inputs.write(device, &fields, 0)?;
        tape.begin(Mode::Evaluate);
        store.declare_frozen(&mut tape, &mut vars);
        let given = inputs.declare(&mut tape);
        let ((first, second), heads) = model.evaluation(&mut tape, &vars, given);
        let losses = [Some(first), second];
        losses.iter().chain(&heads).flatten().for_each(|value| tape.keep(*value));
        tape.run(device)?;
        for loss in losses.into_iter().flatten() {
            total += device::read_scalar(device, &tape.value(loss)?)? * labels as f64;
        }
        if let (Some(agreement), Some(scores), Some(right)) = (&mut agreement, heads[0], fields.last()) {
            agreement.add(&device::read_f32(device, &tape.value(scores)?)?, right, labels);
        }
        if let (true, Some(class), Some(Field::Ints(right))) = (is_image, heads[0], fields.get(1)) {
            let mut scores = device::read_f32(device, &tape.value(class)?)?;
            if let Some(other) = heads[1] {
                let other = device::read_f32(device, &tape.value(other)?)?;
                scores.iter_mut().zip(other).for_each(|(score, other)| *score += other);
            }
            let classes = scores.len() / right.len().max(1);
            for (scores, label) in scores.chunks_exact(classes.max(1)).zip(right).take(labels) {
                let rank = rank(scores, *label);
                hits[0] += usize::from(rank == 0);
                hits[1] += usize::from(rank < 5);
            }
        }
        scored += labels;
    }
    tape.forget(device);
    for memory in inputs.memory().chain([state]) {
        if let Place::Arena(arena) = memory.place {
            device.free(arena);
        }
    }
    let share = |n: usize| n as f64 / scored.max(1) as f64;
    let measures = agreement.map(|agreement| agreement.measures()).transpose()?;
    Ok(HeldOut { scored, loss: total / scored.max(1) as f64, top: is_image.then(|| hits.map(share)), measures })
}

/// How many classes have a higher score than `label`; equal ones count as higher when they come first.
fn rank(scores: &[f32], label: i32) -> usize {
    let Some(own) = usize::try_from(label).ok().and_then(|label| scores.get(label)) else { return usize::MAX };
    let before = scores.iter().take(label as usize).filter(|score| *score >= own);
    before.count() + scores.iter().skip(label as usize + 1).filter(|score| *score > own).count()
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn ranks_count_higher_scores_and_equal_ones_before() {
        let scores = [0.5, 2.0, 0.5, -1.0];
        assert_eq!([0, 1, 2, 3].map(|label| rank(&scores, label)), [1, 0, 2, 3]);
        assert_eq!([rank(&scores, -100), rank(&scores, 4)], [usize::MAX; 2]);
        // A score that is no number is higher than none, and none is higher than it.
        assert_eq!(rank(&[f32::NAN, 1.0], 1), 0);
    }
}
