//! [`Action`] and [`Actions`]: what may be done.

use std::fmt;
use std::str::FromStr;

/// Something that may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read what a repository holds.
    Pull,
    /// Add to a repository.
    Push,
    /// Delete from a repository.
    Delete,
    /// Look after the registry as a whole: statistics, collection, rewriting.
    Admin,
}

impl Action {
    const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::Admin];

    /// The action as it is written in scopes and settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no action {0:?}: it must be pull, push, delete or admin")]
pub struct UnknownAction(String);

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == text);
        found.ok_or_else(|| UnknownAction(text.to_owned()))
    }
}

/// A set of actions.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// All that can be done with a repository, which scopes call `*`.
    pub const REPOSITORY: Self = Self(0b0111);

    /// Whether an action is in it.
    #[must_use]
    pub fn has(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The actions in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.has(*action))
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self(action.bit())
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        actions.into_iter().fold(Self::default(), |set, action| set.or(action.into()))
    }
}

/// As scopes have it: `pull,push`.
impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{action}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Actions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        let set: Actions = [Action::Push, Action::Pull].into_iter().collect();
        assert_eq!(set.to_string(), "pull,push");
        assert!(set.has(Action::Pull) && !set.has(Action::Delete) && !set.has(Action::Admin));
        assert_eq!(set.and(Action::Pull.into()), Actions::from(Action::Pull));
        assert!(!Actions::REPOSITORY.has(Action::Admin));
        assert!(set.and(Action::Delete.into()).is_empty());
    }

    #[test]
    fn what_is_no_action_is_refused_with_those_that_are() {
        assert!("pul".parse::<Action>().unwrap_err().to_string().contains("pull, push, delete or admin"));
        assert_eq!("admin".parse(), Ok(Action::Admin));
    }
}
