//! Lines of coloured spans, cut to a width before they are coloured.

use unicode_width::UnicodeWidthStr as _;

/// The way lines are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Lines have colours (ANSI escapes).
    pub color: bool,
    /// The columns that a line may fill. Absent: as many as it needs.
    pub width: Option<usize>,
}

impl Style {
    /// No colours, no limit: for pipes and logs.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            color: false,
            width: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Neutral,
    Dim,
    Progress,
    Warning,
    Success,
    Failure,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Neutral => None,
            Self::Dim => Some("2"),
            Self::Progress => Some("36"),
            Self::Warning => Some("33"),
            Self::Success => Some("32"),
            Self::Failure => Some("31"),
        }
    }
}

/// Spans of text, each in its tone.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<(Tone, String)>);

impl Line {
    pub(crate) fn push(&mut self, tone: Tone, text: &str) {
        self.0.push((tone, text.to_owned()));
    }

    /// The columns that the whole line fills.
    pub(crate) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| columns(text)).sum()
    }

    pub(crate) fn render(&self, style: Style) -> String {
        let full = self.width();
        let mut left = style.width.unwrap_or(full);
        // The last column of a line that is cut goes to the mark for the cut.
        let cut = full > left;
        if cut {
            left = left.saturating_sub(1);
        }
        let mut out = String::new();
        for (tone, text) in &self.0 {
            let shown = fitting(text, left);
            left = match shown.len() == text.len() {
                true => left.saturating_sub(columns(shown)),
                // Nothing may follow the cut, even if a wide character left a column free.
                false => 0,
            };
            match tone.code().filter(|_| style.color && !shown.is_empty()) {
                Some(code) => out.push_str(&format!("\u{1b}[{code}m{shown}\u{1b}[0m")),
                None => out.push_str(shown),
            }
        }
        if cut {
            out.push('…');
        }
        if style.color {
            return out;
        }
        out.trim_end().to_owned()
    }
}

/// The columns that a text fills on a terminal. An East Asian character or an emoji fills two.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.width()
}

/// A text with blanks up to a number of columns. A wider text stays as it is.
#[must_use]
pub fn padded(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(columns(text))))
}

/// The longest beginning of a text that fits into some columns.
fn fitting(text: &str, most: usize) -> &str {
    // Each beginning is measured whole, since some characters change the width of the one before.
    let ends = text
        .char_indices()
        .map(|(at, letter)| at + letter.len_utf8());
    let beginnings = ends.map_while(|end| text.get(..end));
    let fitting = beginnings.take_while(|beginning| columns(beginning) <= most);
    fitting.last().unwrap_or_default()
}

/// Text from elsewhere, safe to print: U+FFFD replaces each character that could steer a terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    let steers = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|letter| if steers(letter) { '\u{fffd}' } else { letter })
        .collect()
}
