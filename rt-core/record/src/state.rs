//! Values as words: how inputs, outputs and the loop's whole state go into a record and come back.
//!
//! rt-safe: saving writes into a buffer that never grows, loading reads and checks. A value is a
//! fixed sequence of words, bit for bit: an `f64` is its bits, so NaN payloads and negative zeros
//! come back as they were. [`recorded!`](crate::recorded) implements [`State`] for a struct by
//! naming **every** field, those that change and those that the configuration fixes: a field added
//! later and forgotten here does not compile. Names and types of the words come from the same
//! list, so a file describes itself by what was really written.

use kairo_link::MonoNs;

/// Where words go. Never grows: what does not fit is dropped and noticed.
#[derive(Debug)]
pub struct Sink {
    words: Vec<u64>,
    overflowed: bool,
}

impl Sink {
    /// Room for `capacity` words, touched. setup-only.
    pub fn new(capacity: usize) -> Self {
        // Not zeros: the allocator would hand out pages that nobody has touched.
        let mut words = vec![1; capacity];
        words.clear();
        Self {
            words,
            overflowed: false,
        }
    }

    /// Forgets everything. rt-safe.
    pub fn clear(&mut self) {
        self.words.clear();
        self.overflowed = false;
    }

    /// Appends a word. rt-safe.
    pub fn put(&mut self, word: u64) {
        if self.words.len() < self.words.capacity() {
            self.words.push(word);
        } else {
            self.overflowed = true;
        }
    }

    /// What was put. rt-safe.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Changes a word put before. rt-safe.
    pub(crate) fn set(&mut self, index: usize, word: u64) {
        if let Some(place) = self.words.get_mut(index) {
            *place = word;
        }
    }

    /// Drops zeros at the end, down to `length` words: a [`Source`] gives them back. rt-safe.
    pub(crate) fn trim(&mut self, length: usize) {
        while self.words.len() > length && self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    /// Whether anything did not fit. rt-safe.
    pub const fn overflowed(&self) -> bool {
        self.overflowed
    }
}

/// Where words come from. After its end there are zeros, which is what [`Sink::trim`] dropped.
#[derive(Debug)]
pub struct Source<'w> {
    words: &'w [u64],
    at: usize,
}

impl<'w> Source<'w> {
    /// The words of one value.
    pub const fn new(words: &'w [u64]) -> Self {
        Self { words, at: 0 }
    }

    /// The next word. rt-safe.
    pub fn take(&mut self) -> u64 {
        let word = self.words.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        word
    }
}

/// A word that is no value of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} is no {wanted}")]
pub struct Malformed {
    /// The word.
    pub found: u64,
    /// The type.
    pub wanted: &'static str,
}

/// A value that can be recorded. See the module documentation.
pub trait State {
    /// Writes all of it. rt-safe.
    fn save(&self, sink: &mut Sink);

    /// Becomes what was saved. rt-safe.
    ///
    /// # Errors
    /// When a word is no value of its type; `self` is then partly changed.
    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed>;

    /// Appends `NAME:TYPE` for each word. setup-only.
    fn describe(name: &str, words: &mut Vec<String>)
    where
        Self: Sized;
}

macro_rules! plain {
    ($type:ty, $name:literal, |$value:ident| $to:expr, |$word:ident| $from:expr) => {
        impl State for $type {
            fn save(&self, sink: &mut Sink) {
                let $value = self;
                sink.put($to);
            }

            fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
                let $word = source.take();
                *self = $from;
                Ok(())
            }

            fn describe(name: &str, words: &mut Vec<String>) {
                let name = if name.is_empty() { "value" } else { name };
                words.push(format!("{name}:{}", $name));
            }
        }
    };
}

fn narrow<T: TryFrom<u64>>(word: u64, wanted: &'static str) -> Result<T, Malformed> {
    T::try_from(word).map_err(|_| Malformed {
        found: word,
        wanted,
    })
}

plain!(u64, "u64", |value| *value, |word| word);
plain!(u32, "u64", |value| u64::from(*value), |word| narrow(
    word, "u32"
)?);
plain!(u16, "u64", |value| u64::from(*value), |word| narrow(
    word, "u16"
)?);
plain!(u8, "u64", |value| u64::from(*value), |word| narrow(
    word, "u8"
)?);
plain!(usize, "u64", |value| *value as u64, |word| narrow(
    word, "usize"
)?);
plain!(f64, "f64", |value| value.to_bits(), |word| f64::from_bits(
    word
));
plain!(MonoNs, "u64", |value| value.0, |word| MonoNs(word));
plain!(bool, "u64", |value| u64::from(*value), |word| match word {
    0 => false,
    1 => true,
    found => {
        return Err(Malformed {
            found,
            wanted: "bool",
        });
    }
});

impl<T: State, const N: usize> State for [T; N] {
    fn save(&self, sink: &mut Sink) {
        for value in self {
            value.save(sink);
        }
    }

    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        self.iter_mut().try_for_each(|value| value.load(source))
    }

    fn describe(name: &str, words: &mut Vec<String>) {
        for index in 0..N {
            T::describe(&format!("{name}[{index}]"), words);
        }
    }
}

/// As long when there is nothing, so that every word keeps its place.
impl<T: State + Default> State for Option<T> {
    fn save(&self, sink: &mut Sink) {
        self.is_some().save(sink);
        match self {
            Some(value) => value.save(sink),
            None => T::default().save(sink),
        }
    }

    fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
        let (mut some, mut value) = (false, T::default());
        some.load(source)?;
        value.load(source)?;
        *self = some.then_some(value);
        Ok(())
    }

    fn describe(name: &str, words: &mut Vec<String>) {
        words.push(format!("{name}.is_some:u64"));
        T::describe(name, words);
    }
}

/// Implements [`State`] for a struct: `recorded!(Type { changing, fields } fixed { others })`.
/// Every field must be named in one of the lists; `fixed` are those that follow from the
/// configuration, or that replay makes anew.
#[macro_export]
macro_rules! recorded {
    ($type:ty { $($saved:ident: $field:ty),* $(,)? } fixed { $($fixed:ident),* $(,)? }) => {
        impl $crate::state::State for $type {
            fn save(&self, sink: &mut $crate::state::Sink) {
                let Self { $($saved,)* $($fixed: _,)* } = self;
                $(<$field as $crate::state::State>::save($saved, sink);)*
            }

            fn load(
                &mut self,
                source: &mut $crate::state::Source<'_>,
            ) -> Result<(), $crate::state::Malformed> {
                let Self { $($saved,)* $($fixed: _,)* } = self;
                $(<$field as $crate::state::State>::load($saved, source)?;)*
                Ok(())
            }

            fn describe(name: &str, words: &mut Vec<String>) {
                $({
                    let field = $crate::state::join(name, stringify!($saved));
                    <$field as $crate::state::State>::describe(&field, words);
                })*
            }
        }
    };
}

/// Implements [`State`] for an enumeration with values of its own: each variant by its number.
#[macro_export]
macro_rules! recorded_enum {
    ($type:ty { $($variant:ident = $number:literal),+ $(,)? }) => {
        impl $crate::state::State for $type {
            fn save(&self, sink: &mut $crate::state::Sink) {
                sink.put(match self { $(Self::$variant => $number,)+ });
            }

            fn load(
                &mut self,
                source: &mut $crate::state::Source<'_>,
            ) -> Result<(), $crate::state::Malformed> {
                *self = match source.take() {
                    $($number => Self::$variant,)+
                    found => {
                        let wanted = stringify!($type);
                        return Err($crate::state::Malformed { found, wanted });
                    }
                };
                Ok(())
            }

            fn describe(name: &str, words: &mut Vec<String>) {
                words.push(format!("{name}:u64"));
            }
        }
    };
}

/// The name of a field. setup-only.
pub fn join(name: &str, field: &str) -> String {
    if name.is_empty() {
        field.to_owned()
    } else {
        format!("{name}.{field}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Inner {
        a: f64,
        b: bool,
    }
    recorded!(Inner { a: f64, b: bool } fixed {});

    #[derive(Debug, Default, PartialEq)]
    struct Outer {
        limit: u64,
        inner: Option<Inner>,
        list: [Inner; 3],
        count: u32,
    }
    recorded!(Outer { inner: Option<Inner>, list: [Inner; 3], count: u32 } fixed { limit });

    #[test]
    fn words_are_named_in_the_order_they_are_saved() {
        let mut names = Vec::new();
        Outer::describe("", &mut names);
        let mut sink = Sink::new(100);
        Outer::default().save(&mut sink);
        assert_eq!(names.len(), sink.words().len());
        assert_eq!(names[0], "inner.is_some:u64");
        assert_eq!(names[5], "list[1].a:f64");
        assert_eq!(names[9], "count:u64");
    }

    #[test]
    fn what_does_not_fit_is_noticed() {
        let mut sink = Sink::new(2);
        sink.put(1);
        sink.put(2);
        assert!(!sink.overflowed());
        sink.put(3);
        assert_eq!((sink.words(), sink.overflowed()), (&[1, 2][..], true));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn comes_back_bit_for_bit_and_keeps_what_is_fixed(
            bits in any::<[u64; 4]>(), flags in any::<[bool; 4]>(), some in any::<bool>(),
            count in any::<u32>(),
        ) {
            let inner = |index: usize| Inner { a: f64::from_bits(bits[index]), b: flags[index] };
            let saved = Outer {
                limit: 1,
                inner: some.then(|| inner(3)),
                list: [inner(0), inner(1), inner(2)],
                count,
            };
            let mut sink = Sink::new(100);
            saved.save(&mut sink);
            sink.trim(0);
            let mut loaded = Outer { limit: 2, ..Outer::default() };
            loaded.load(&mut Source::new(sink.words())).expect("as saved");
            let mut again = Sink::new(100);
            loaded.save(&mut again);
            again.trim(0);
            prop_assert_eq!(sink.words(), again.words());
            prop_assert_eq!((loaded.limit, loaded.count), (2, count));
        }

        #[test]
        fn any_words_are_loaded_or_refused(words in prop::collection::vec(any::<u64>(), 0..20)) {
            let _ = Outer::default().load(&mut Source::new(&words));
        }
    }
}
