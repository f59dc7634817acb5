//! The parameters behind `?`.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::http::{HeaderName, HeaderValue, Uri};

use super::error::ApiError;

/// The parameters of a request, in order, decoded.
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(super) fn of(uri: &'a Uri) -> Self {
        Self(form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect())
    }

    /// The fields of a form, which look the same.
    pub(super) fn of_form(body: &'a [u8]) -> Self {
        Self(form_urlencoded::parse(body).collect())
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of a parameter.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// A parameter that is true or false, which is also its default.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(ApiError::bad_parameter(name, other, "true or false")),
        }
    }

    /// The parameter `n`, at most `most`, which is also its default.
    pub(super) fn limit(&self, most: usize) -> Result<usize, ApiError> {
        match self.get("n") {
            None => Ok(most),
            Some(text) => match text.parse::<usize>() {
                Ok(n) => Ok(n.min(most)),
                Err(_) => Err(ApiError::bad_parameter("n", text, "a number")),
            },
        }
    }
}

/// A `Link` to the next page: `path` with `parameters` (RFC 5988).
pub(super) fn next_page(path: &str, parameters: &[(&str, &str)]) -> Option<(HeaderName, HeaderValue)> {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let mut link = String::new();
    write!(link, "<{path}?{query}>; rel=\"next\"").ok()?;
    Some((axum::http::header::LINK, HeaderValue::try_from(link).ok()?))
}
