//! Mistakes in a pair's file, and how they are shown: with the line, what stands there and what is expected.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use thiserror::Error;

/// Most mistakes shown with their lines. Finding each line means reading the file from its start, so a long file that is
/// not a pair's file at all would otherwise take minutes; and nobody repairs more than this in one go.
const MOST_SHOWN: usize = 30;

/// How text for the operator may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No escape sequences, no box drawing: for pipes, files and tests.
    Plain,
    /// Colours and box drawing: for a terminal.
    Coloured,
}

/// One mistake in a pair's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// Said at the place itself.
    pub label: String,
    /// What to do, where the label does not say it already.
    pub advice: Option<String>,
    /// Byte range in the file.
    pub span: Range<usize>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("cannot read the pair's file {}: {source}", file.display())]
    Unreadable {
        /// The file asked for.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has secrets in it and everyone may read or change it.
    #[error("{} has secrets in it and mode {mode:04o}: everyone on this machine can read or change it", file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file was read and is wrong.
    #[error("{} in {}", Count(mistakes.len()), file.display())]
    Mistaken {
        /// The file.
        file: PathBuf,
        /// Its content, without secrets.
        text: String,
        /// All mistakes, in the order of the file.
        mistakes: Vec<Mistake>,
    },
}

/// "1 mistake", "3 mistakes".
struct Count(usize);

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} mistake{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

impl ConfigError {
    /// The whole error as text for the operator, ending in a newline.
    #[must_use]
    pub fn render(&self, look: Look) -> String {
        match self {
            Self::Unreadable { .. } => {
                format!("{self}\n  give the file with --pair FILE; docs/pair.example.toml is an annotated example\n")
            }
            Self::Exposed { file, .. } => {
                format!(
                    "{self}\n  chmod 600 {}, on both nodes; then consider the secrets known and change them\n",
                    file.display()
                )
            }
            Self::Mistaken { file, text, mistakes } => {
                let shown = file.file_name().map_or_else(|| file.display().to_string(), |n| n.display().to_string());
                let source = NamedSource::new(shown, text.clone());
                let mut out = String::new();
                for mistake in mistakes.iter().take(MOST_SHOWN) {
                    let report = Report { mistake, source: &source };
                    // PANIC: writing to a String cannot fail, and the spans were clamped to the text when made.
                    handler(look).render_report(&mut out, &report).expect("a report renders into a string");
                    out.push('\n');
                }
                if mistakes.len() > MOST_SHOWN {
                    out.push_str(&format!("only the first {MOST_SHOWN} are shown\n"));
                }
                out.push_str(&format!("{self}\n"));
                out
            }
        }
    }
}

fn handler(look: Look) -> GraphicalReportHandler {
    let theme = match look {
        Look::Plain => {
            GraphicalTheme { characters: miette::ThemeCharacters::ascii(), styles: miette::ThemeStyles::none() }
        }
        Look::Coloured => GraphicalTheme::unicode(),
    };
    GraphicalReportHandler::new_themed(theme).with_width(110).with_links(false).with_context_lines(1)
}

/// One mistake together with the text it stands in, as miette wants it.
#[derive(Debug)]
struct Report<'m> {
    mistake: &'m Mistake,
    source: &'m NamedSource<String>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.mistake.message)
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(Some(self.mistake.label.clone()), self.mistake.span.clone());
        Some(Box::new(std::iter::once(label)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.mistake.advice.as_ref().map(|text| Box::new(text) as Box<dyn fmt::Display>)
    }
}
