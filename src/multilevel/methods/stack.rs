//! Block stacking, the operator G_stack of Du et al. (arXiv 2405.15319): the larger model has the layers of the smaller one,
//! one copy of all of them after the other, `[0..n, 0..n, ...]`. Stages are those of the V-cycle.

use super::{GroupList, Method};
use crate::bail;
use crate::error::Result;

/// The method `stack`.
#[derive(Debug)]
pub struct Stack;

impl Method for Stack {
    fn name(&self) -> &'static str {
        "stack"
    }

    fn layers(&self, big: usize, small: usize) -> Result<Option<GroupList>> {
        if small == 0 || !big.is_multiple_of(small) {
            bail!(
                "growth.method: stack needs {big} layers to be a multiple of {small}; choose other numbers of layers"
            );
        }
        Ok(Some((0..small).map(|layer| (layer..big).step_by(small).collect()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_all_layers_follow_each_other() {
        let groups = Stack.layers(6, 2).expect("a multiple").expect("groups");
        assert_eq!(groups, [[0, 2, 4], [1, 3, 5]]);
        assert!(Stack.layers(5, 2).expect_err("no multiple").to_string().contains("multiple"));
    }
}
