//! [`Events`]: what a registry of DVCR tells of long work, a line of JSON for each thing that happens.

use std::marker::PhantomData;

use bytes::{Buf as _, BytesMut};
use serde::de::DeserializeOwned;

use super::{ClientError, Response};

/// The longest line that is read.
const LINE: usize = 1 << 20;

/// What happens, as it happens.
#[derive(Debug)]
pub struct Events<T> {
    response: Response,
    come: BytesMut,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Events<T> {
    pub(super) fn of(response: Response) -> Self {
        Self { response, come: BytesMut::new(), of: PhantomData }
    }

    /// What happens next; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.come.iter().position(|&byte| byte == b'\n') {
                let line = self.come.split_to(end);
                self.come.advance(1);
                let wrong = |_| self.response.protocol("a line that does not parse");
                return serde_json::from_slice(&line).map(Some).map_err(wrong);
            }
            match self.response.piece().await? {
                Some(piece) if self.come.len() < LINE => self.come.extend_from_slice(&piece),
                Some(_) => return Err(self.response.protocol("a line without end")),
                None if self.come.is_empty() => return Ok(None),
                None => return Err(self.response.protocol("the last line is not whole")),
            }
        }
    }
}
