//! What blocks keep from one period for the next, as words: how it is saved and put back.
//!
//! rt-safe. A block names every number it keeps once, in [`Block::memory`](crate::block::Block),
//! and the same list serves both ways, so what is saved is what is put back. How many words it is
//! never changes while a program runs. Not here: settings; a block that is made of other settings
//! gets the memory and keeps its own settings, which is how a replay finds out what they change.

use std::fmt;

/// See the module documentation.
pub enum Memory<'m> {
    /// Numbers are shown and stay as they are.
    Save(&'m mut dyn FnMut(u64)),
    /// Numbers become what was saved.
    Load {
        /// The next saved word.
        next: &'m mut dyn FnMut() -> u64,
        /// A word that cannot be, if there was one. The number it was for stays as it was.
        wrong: Option<u64>,
    },
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Save(_) => "Save",
            Self::Load { .. } => "Load",
        })
    }
}

impl Memory<'_> {
    /// A whole number. rt-safe.
    pub fn word(&mut self, value: &mut u64) {
        match self {
            Self::Save(put) => put(*value),
            Self::Load { next, .. } => *value = next(),
        }
    }

    /// A number, bit for bit. rt-safe.
    pub fn number(&mut self, value: &mut f64) {
        let mut bits = value.to_bits();
        self.word(&mut bits);
        *value = f64::from_bits(bits);
    }

    /// Several numbers. rt-safe.
    pub fn numbers(&mut self, values: &mut [f64]) {
        for value in values {
            self.number(value);
        }
    }

    /// Yes or no. rt-safe.
    pub fn flag(&mut self, value: &mut bool) {
        let mut index = usize::from(*value);
        self.index(&mut index, 2);
        *value = index == 1;
    }

    /// A number below `count`. rt-safe.
    pub fn index(&mut self, value: &mut usize, count: usize) {
        let mut word = *value as u64;
        self.word(&mut word);
        match (usize::try_from(word), self) {
            (Ok(index), _) if index < count => *value = index,
            (_, Self::Load { wrong, .. }) => *wrong = Some(word),
            (_, Self::Save(_)) => {}
        }
    }

    /// Something that may be missing. As many words when it is. rt-safe.
    pub fn maybe<T: Default>(
        &mut self,
        value: &mut Option<T>,
        each: impl FnOnce(&mut Self, &mut T),
    ) {
        let mut is_some = value.is_some();
        self.flag(&mut is_some);
        let mut inside = value.take().unwrap_or_default();
        each(self, &mut inside);
        *value = is_some.then_some(inside);
    }
}
