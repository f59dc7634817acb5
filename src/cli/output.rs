//! [`OutputArgs`]: results on standard output, for people or for programs.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Failure;

/// How the result is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArgs {
    /// How the result is printed on standard output.
    #[arg(short, long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

/// The forms of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

impl OutputArgs {
    /// Prints a result.
    pub(super) fn print(self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        self.output.print(result, text)
    }
}

impl Format {
    /// Prints a result.
    pub(super) fn print(self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        write(std::io::stdout(), &self.render(result, text)?)
    }

    /// Prints a result on standard error, because standard output is taken.
    pub(super) fn print_aside(
        self,
        result: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        write(std::io::stderr(), &self.render(result, text)?)
    }

    fn render(self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<String, Failure> {
        match self {
            Self::Text => Ok(text()),
            Self::Json => serde_json::to_string_pretty(result)
                .map_err(|error| Failure::because("cannot write the result", &error)),
        }
    }
}

fn write(mut to: impl std::io::Write, text: &str) -> Result<(), Failure> {
    match writeln!(to, "{}", text.trim_end()) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::because("cannot write the result", &error)),
    }
}

/// Names and values below each other, values aligned.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let lines = fields.iter().map(|(name, value)| format!("{:width$} {value}", format!("{name}:")));
    lines.collect::<Vec<_>>().join("\n")
}

/// Rows below headings, columns aligned.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(headings.to_vec())).chain(body).collect()
}

/// A number of bytes, for people and exactly.
pub(super) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    format!("{} ({count} bytes)", indicatif::BinaryBytes(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "long".to_owned()], vec!["bbb".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID   NAME\na    long\nbbb  x\n");
        assert_eq!(fields(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a:    1\nlong: 2");
    }
}
