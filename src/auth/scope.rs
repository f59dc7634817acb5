//! [`Scope`]: what a token is asked for, in the words of Docker's token specification: `repository:vi/team/disk:pull,push`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Action, Actions};
use crate::oci::RepositoryName;

/// What is done with one thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    kind: String,
    /// Which.
    name: String,
    actions: Vec<String>,
}

/// Scopes that are looked at in one request. Clients ask for two or three.
const MOST: usize = 64;

impl Scope {
    /// Actions in a repository.
    #[must_use]
    pub fn repository(name: &str, actions: Actions) -> Self {
        let actions = actions.iter().map(|action| action.as_str().to_owned()).collect();
        Self { kind: "repository".to_owned(), name: name.to_owned(), actions }
    }

    /// The list of repositories.
    #[must_use]
    pub fn catalog() -> Self {
        Self { kind: "registry".to_owned(), name: "catalog".to_owned(), actions: vec!["*".to_owned()] }
    }

    /// The care for the registry as a whole.
    #[must_use]
    pub fn admin() -> Self {
        Self { kind: "registry".to_owned(), name: "admin".to_owned(), actions: vec!["*".to_owned()] }
    }

    /// Reads scopes with spaces between them. What is none is left out: nothing is granted for it.
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        texts.into_iter().flat_map(str::split_whitespace).take(MOST).filter_map(Self::parse).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // `repository(plugin)` is a repository to Docker.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind).to_owned();
        let actions: Vec<String> = actions.split(',').map(str::to_owned).collect();
        match kind.as_str() {
            "repository" => name.parse::<RepositoryName>().is_ok(),
            "registry" => true,
            _ => false,
        }
        .then(|| Self { kind, name: name.to_owned(), actions })
    }

    /// The repository, if it is about one.
    #[must_use]
    pub fn of_repository(&self) -> Option<&str> {
        (self.kind == "repository").then_some(self.name.as_str())
    }

    /// What is done with the repository.
    #[must_use]
    pub fn actions(&self) -> Actions {
        if self.actions.iter().any(|action| action == "*") {
            return Actions::REPOSITORY;
        }
        let known = self.actions.iter().filter_map(|action| action.parse::<Action>().ok());
        known.collect::<Actions>().and(Actions::REPOSITORY)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_come_in_one_text_and_in_several() {
        let scopes = Scope::parse_all(["repository:a/b:pull,push repository:c:pull", "registry:catalog:*"]);
        let shown: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["repository:a/b:pull,push", "repository:c:pull", "registry:catalog:*"]);
        assert_eq!(scopes[0].actions().to_string(), "pull,push");
        assert_eq!(scopes[2], Scope::catalog());
    }

    #[test]
    fn what_is_no_scope_or_no_name_of_a_repository_asks_for_nothing() {
        let texts = [
            "",
            "repository",
            "repository:a",
            "repository:vi/**:pull",
            "repository:vi/*:pull",
            "repository:../a:pull",
            "repository::pull",
            "blob:a:pull",
        ];
        assert_eq!(Scope::parse_all(texts), []);
    }

    #[test]
    fn actions_that_do_not_exist_are_left_out_and_a_star_is_all_of_a_repository() {
        let of = |text| Scope::parse_all([text])[0].actions().to_string();
        assert_eq!(of("repository:a:pull,fly,admin"), "pull");
        assert_eq!(of("repository:a:*"), "pull,push,delete");
        assert_eq!(of("repository:a:"), "");
        assert_eq!(of("repository(plugin):a:pull"), "pull");
    }

    #[test]
    fn a_request_for_endless_scopes_is_cut() {
        let many = "repository:a:pull ".repeat(10_000);
        assert_eq!(Scope::parse_all([many.as_str()]).len(), MOST);
    }
}
