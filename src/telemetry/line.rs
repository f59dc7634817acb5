//! [`Lines`]: a writer of lines of a log, each of which stays one.

use std::fmt::Write as _;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Writes each event as one line, in which nothing else ends a line or speaks to a terminal.
#[derive(Debug, Clone)]
pub(super) struct Lines<M> {
    make: M,
    colours: bool,
}

impl<M> Lines<M> {
    pub(super) fn new(make: M, colours: bool) -> Self {
        Self { make, colours }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { writer: self.make.make_writer(), colours: self.colours }
    }
}

/// One event; it comes in one piece.
#[derive(Debug)]
pub(super) struct Line<W> {
    writer: W,
    colours: bool,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let keeps = |c: char| !ends_or_orders(c) || (self.colours && c == '\u{1b}');
        if line.chars().all(keeps) {
            self.writer.write_all(event)?;
        } else {
            let mut plain = String::with_capacity(text.len() + 16);
            for c in line.chars() {
                if keeps(c) {
                    plain.push(c);
                } else {
                    // As JSON has it, too.
                    let _ = write!(plain, "\\u{:04x}", u32::from(c));
                }
            }
            plain.push('\n');
            self.writer.write_all(plain.as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Whether a character may end a line, for some program, or be an order to a terminal.
fn ends_or_orders(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const HOSTILE: &str = "a\nINFO forged=1\r\u{1b}[2J\u{85}\u{7f}\u{2028}\tb";

    fn logged(json: bool) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(Lines::new(move || writer.clone(), false));
        let log = || {
            let _span = tracing::info_span!("request", id = %HOSTILE).entered();
            tracing::info!(path = HOSTILE, error = %HOSTILE, "{HOSTILE}");
        };
        if json {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.json()), log);
        } else {
            let layer = layer.with_ansi(false);
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        }
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn whatever_is_logged_stays_within_its_line() {
        for json in [false, true] {
            let text = logged(json);
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains(ends_or_orders), "{line:?}");
            assert!(line.matches("forged").count() >= 4, "{line:?}");
        }
        let value: serde_json::Value = serde_json::from_str(&logged(true)).unwrap();
        assert_eq!(value["fields"]["path"], HOSTILE);
    }
}
