//! [`Words`]: lower-cased runs of Unicode alphanumeric characters in a stream of bytes.
//!
//! Invariant: how the stream is cut into pieces never changes the words. Bytes that are not UTF-8 separate words, as a
//! space does, and so do not change the words around them.

/// A longer run is cut into words of this many bytes, so that no input can take unbounded memory.
const MAX_WORD_BYTES: usize = 1 << 20;

/// The state between two pieces of one stream.
#[derive(Debug, Default)]
pub struct Words {
    /// The word so far; ASCII letters are lower case already.
    word: String,
    /// `word` holds a character that ASCII rules cannot lower-case.
    not_ascii: bool,
    /// The first bytes of a character whose rest is in the next piece.
    cut: [u8; 4],
    cut_len: usize,
}

impl Words {
    /// Calls `on_word` for every word that ends in `piece`.
    pub fn push(&mut self, piece: &[u8], on_word: &mut impl FnMut(&str)) {
        let mut rest = self.complete_cut(piece, on_word);
        while let Some(&first) = rest.first() {
            if first.is_ascii() {
                self.push_ascii(first, on_word);
                rest = &rest[1..];
                continue;
            }
            let char_bytes = &rest[..utf8_len(first).min(rest.len())];
            match std::str::from_utf8(char_bytes) {
                Ok(text) => {
                    self.push_text(text, on_word);
                    rest = &rest[char_bytes.len()..];
                }
                Err(e) => match e.error_len() {
                    Some(bad) => {
                        self.finish(on_word);
                        rest = &rest[bad..];
                    }
                    None => {
                        self.cut[..rest.len()].copy_from_slice(rest);
                        self.cut_len = rest.len();
                        return;
                    }
                },
            }
        }
    }

    /// Calls `on_word` for the word that ends with the stream, if any, and is ready for another stream.
    pub fn finish(&mut self, on_word: &mut impl FnMut(&str)) {
        self.cut_len = 0;
        if self.word.is_empty() {
            return;
        }
        if self.not_ascii {
            on_word(&self.word.to_lowercase());
        } else {
            on_word(&self.word);
        }
        self.word.clear();
        self.not_ascii = false;
    }

    /// Ends the character that the last piece began; gives what is left of `piece`.
    fn complete_cut<'a>(&mut self, piece: &'a [u8], on_word: &mut impl FnMut(&str)) -> &'a [u8] {
        let mut rest = piece;
        while self.cut_len > 0
            && let Some(&next) = rest.first()
        {
            self.cut[self.cut_len] = next;
            let cut = self.cut;
            match std::str::from_utf8(&cut[..=self.cut_len]) {
                Ok(text) => {
                    self.cut_len = 0;
                    self.push_text(text, on_word);
                }
                // What was kept is the beginning of a character and `next` does not go on with it: `next` stands for
                // itself and is left in place.
                Err(e) if e.error_len().is_some() => {
                    self.finish(on_word);
                    return rest;
                }
                Err(_) => self.cut_len += 1,
            }
            rest = &rest[1..];
        }
        rest
    }

    fn push_ascii(&mut self, byte: u8, on_word: &mut impl FnMut(&str)) {
        if byte.is_ascii_alphanumeric() {
            self.word.push(char::from(byte.to_ascii_lowercase()));
            self.limit(on_word);
        } else {
            self.finish(on_word);
        }
    }

    /// Takes the one character of `text`, which is not ASCII.
    fn push_text(&mut self, text: &str, on_word: &mut impl FnMut(&str)) {
        if text.chars().all(char::is_alphanumeric) {
            self.word.push_str(text);
            self.not_ascii = true;
            self.limit(on_word);
        } else {
            self.finish(on_word);
        }
    }

    fn limit(&mut self, on_word: &mut impl FnMut(&str)) {
        if self.word.len() >= MAX_WORD_BYTES {
            self.finish(on_word);
        }
    }
}

/// How many bytes a character has that begins with `first`; 1 where none does.
fn utf8_len(first: u8) -> usize {
    match first {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pieces: &[&[u8]]) -> Vec<String> {
        let mut words = Words::default();
        let mut found = Vec::new();
        let mut on_word = |w: &str| found.push(w.to_owned());
        for piece in pieces {
            words.push(piece, &mut on_word);
        }
        words.finish(&mut on_word);
        found
    }

    /// What a word is, said in the plainest way.
    fn expected(bytes: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(bytes)
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
            .map(str::to_lowercase)
            .collect()
    }

    const TEXTS: &[&[u8]] = &[
        b"",
        b"One, two;THREE 4 five6\n",
        "Ünïcode ΟΔΟΣ ΟΔΟΣ2 straße İstanbul 日本語 Ⅷ ²x 𝔘𝔫𝔦 e\u{301}t 😀mid😀".as_bytes(),
        b"bad\xFFbyte \xC3\x28 a\xE2\x82z \xE2\x82\xAC9 \xF0\x9D\x94 end\xF0\x9D",
        b"\xC3\xA9\xC3",
        b"\xED\xA0\x80surrogate\xC0\xAFoverlong\xF5\x80\x80\x80\x80",
        b"\xE2\xE2\x82\xC3\xA9",
    ];

    #[test]
    fn a_split_at_any_two_places_changes_nothing() {
        for text in TEXTS {
            let want = expected(text);
            for i in 0..=text.len() {
                for j in i..=text.len() {
                    let pieces = [&text[..i], &text[i..j], &text[j..]];
                    assert_eq!(
                        words(&pieces),
                        want,
                        "{} split at {i} and {j}",
                        text.escape_ascii()
                    );
                }
            }
        }
    }

    #[test]
    fn single_bytes_of_arbitrary_data_give_the_same_words() {
        // A fixed linear congruence: every run sees the same bytes.
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(20_000).collect();
        let bytes: Vec<&[u8]> = noise.chunks(1).collect();
        assert_eq!(words(&bytes), expected(&noise));
        assert_eq!(words(&[&noise]), expected(&noise));
    }

    #[test]
    fn an_endless_run_is_cut() {
        let run = vec![b'a'; 2 * MAX_WORD_BYTES + 5];
        let lengths: Vec<usize> = words(&[&run]).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_WORD_BYTES, MAX_WORD_BYTES, 5]);
    }
}
