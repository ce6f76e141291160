//! Enumerations that the file writes as words.

/// A type whose values are words in the service file.
pub(crate) trait Keyword: Copy + 'static {
    /// Every word, with what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

/// Declares an enum together with the words that the service file writes for its variants.
macro_rules! keywords {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $($(#[$variant_attribute:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_attribute])* $variant,)+ }

        impl $name {
            /// The word that the service file writes.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl crate::keyword::Keyword for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant),)+];
        }
    };
}
