//! Runs of blocks, ordered so that those overlapping a given run are found without looking at the others.
//!
//! A balanced (AVL) tree by first block in which every node knows the furthest end beneath it: a subtree that ends too early
//! is passed over as a whole. Nodes live in one vector and are named by their place in it, so that a tree which has once been
//! as large as it gets allocates nothing any more. No run is compared with another here; who excludes whom is `extents`'.

/// No node.
pub(crate) const NOBODY: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    lba: u64,
    end: u64,
    /// The highest `end` of this node and everything beneath.
    furthest: u64,
    left: u32,
    right: u32,
    height: u32,
}

const NO_NODE: Node = Node { lba: 0, end: 0, furthest: 0, left: NOBODY, right: NOBODY, height: 0 };

/// The nodes of any number of trees; a tree is the name of its root, [`NOBODY`] if it is empty.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    nodes: Vec<Node>,
}

impl Intervals {
    /// Adds the run `lba..end` under the name `slot`, which no tree has, and answers the tree's new root.
    pub(crate) fn insert(&mut self, root: u32, slot: u32, lba: u64, end: u64) -> u32 {
        if self.nodes.len() <= slot as usize {
            self.nodes.resize(slot as usize + 1, NO_NODE);
        }
        self.nodes[slot as usize] = Node { lba, end, furthest: end, left: NOBODY, right: NOBODY, height: 1 };
        self.hang(root, slot)
    }

    /// Takes `slot` out of the tree it is in, and answers the tree's new root.
    pub(crate) fn remove(&mut self, root: u32, slot: u32) -> u32 {
        if root == slot {
            let Node { left, right, .. } = *self.at(slot);
            return self.join(left, right);
        }
        if self.key(slot) < self.key(root) {
            let left = self.remove(self.at(root).left, slot);
            self.at_mut(root).left = left;
        } else {
            let right = self.remove(self.at(root).right, slot);
            self.at_mut(root).right = right;
        }
        self.balance(root)
    }

    /// Names every run of the tree that overlaps `lba..end`.
    pub(crate) fn overlapping(&self, root: u32, lba: u64, end: u64, found: &mut impl FnMut(u32)) {
        // BOUND: each round goes a level down; the recursion is as deep as the tree is high.
        let mut next = root;
        while next != NOBODY && self.at(next).furthest > lba {
            let node = self.at(next);
            self.overlapping(node.left, lba, end, found);
            if node.lba >= end {
                return;
            }
            if node.end > lba {
                found(next);
            }
            next = node.right;
        }
    }

    fn at(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize]
    }

    fn at_mut(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize]
    }

    /// Many runs may begin at one block; their names tell them apart.
    fn key(&self, slot: u32) -> (u64, u32) {
        (self.at(slot).lba, slot)
    }

    fn height(&self, root: u32) -> u32 {
        if root == NOBODY { 0 } else { self.at(root).height }
    }

    fn furthest(&self, root: u32) -> u64 {
        if root == NOBODY { 0 } else { self.at(root).furthest }
    }

    /// Recursion here and in `remove` is as deep as the tree is high: at most 1.44 times the binary logarithm of its size,
    /// whatever runs somebody chooses.
    fn hang(&mut self, root: u32, slot: u32) -> u32 {
        if root == NOBODY {
            return slot;
        }
        if self.key(slot) < self.key(root) {
            let left = self.hang(self.at(root).left, slot);
            self.at_mut(root).left = left;
        } else {
            let right = self.hang(self.at(root).right, slot);
            self.at_mut(root).right = right;
        }
        self.balance(root)
    }

    /// One tree of two that had one parent.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NOBODY || right == NOBODY {
            return left.min(right);
        }
        let (first, rest) = self.take_first(right);
        let node = self.at_mut(first);
        node.left = left;
        node.right = rest;
        self.balance(first)
    }

    fn take_first(&mut self, root: u32) -> (u32, u32) {
        let Node { left, right, .. } = *self.at(root);
        if left == NOBODY {
            return (root, right);
        }
        let (first, rest) = self.take_first(left);
        self.at_mut(root).left = rest;
        (first, self.balance(root))
    }

    /// Puts a node right after one of its subtrees got one level higher or lower.
    fn balance(&mut self, root: u32) -> u32 {
        let Node { left, right, .. } = *self.at(root);
        let (lefts, rights) = (self.height(left), self.height(right));
        if lefts > rights + 1 {
            if self.height(self.at(left).left) < self.height(self.at(left).right) {
                let left = self.lift_right(left);
                self.at_mut(root).left = left;
            }
            return self.lift_left(root);
        }
        if rights > lefts + 1 {
            if self.height(self.at(right).right) < self.height(self.at(right).left) {
                let right = self.lift_left(right);
                self.at_mut(root).right = right;
            }
            return self.lift_right(root);
        }
        self.refresh(root);
        root
    }

    /// The left child takes the place of its parent.
    fn lift_left(&mut self, root: u32) -> u32 {
        let lifted = self.at(root).left;
        self.at_mut(root).left = self.at(lifted).right;
        self.refresh(root);
        self.at_mut(lifted).right = root;
        self.refresh(lifted);
        lifted
    }

    /// The right child takes the place of its parent.
    fn lift_right(&mut self, root: u32) -> u32 {
        let lifted = self.at(root).right;
        self.at_mut(root).right = self.at(lifted).left;
        self.refresh(root);
        self.at_mut(lifted).left = root;
        self.refresh(lifted);
        lifted
    }

    fn refresh(&mut self, root: u32) {
        let Node { left, right, end, .. } = *self.at(root);
        let height = 1 + self.height(left).max(self.height(right));
        let furthest = end.max(self.furthest(left)).max(self.furthest(right));
        let node = self.at_mut(root);
        (node.height, node.furthest) = (height, furthest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Intervals {
        /// Ordered, balanced, and every furthest end true.
        fn invariant_tree(&self, root: u32) -> Vec<u32> {
            if root == NOBODY {
                return Vec::new();
            }
            let Node { left, right, height, furthest, end, .. } = *self.at(root);
            assert!(self.height(left).abs_diff(self.height(right)) <= 1);
            assert_eq!(height, 1 + self.height(left).max(self.height(right)));
            assert_eq!(furthest, end.max(self.furthest(left)).max(self.furthest(right)));
            let mut order = self.invariant_tree(left);
            order.push(root);
            order.extend(self.invariant_tree(right));
            assert!(order.windows(2).all(|pair| self.key(pair[0]) < self.key(pair[1])));
            order
        }
    }

    proptest! {
        #[test]
        fn overlapping_runs_are_found_whatever_came_and_went(
            steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 1..200),
        ) {
            let (mut tree, mut root) = (Intervals::default(), NOBODY);
            let mut present: Vec<(u32, u64, u64)> = Vec::new();
            for (slot, (leaves, lba, blocks)) in (0u32..).zip(steps) {
                if leaves && !present.is_empty() {
                    let (gone, ..) = present.remove(lba as usize % present.len());
                    root = tree.remove(root, gone);
                } else {
                    root = tree.insert(root, slot, lba, lba + blocks);
                    present.push((slot, lba, lba + blocks));
                }
                prop_assert_eq!(tree.invariant_tree(root).len(), present.len());
                let mut found = Vec::new();
                tree.overlapping(root, lba, lba + blocks, &mut |slot| found.push(slot));
                found.sort_unstable();
                let overlaps = present.iter().filter(|(_, own, end)| *own < lba + blocks && lba < *end);
                let mut expected: Vec<u32> = overlaps.map(|(slot, ..)| *slot).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
