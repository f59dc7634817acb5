//! [`Rules`]: who may do what. What no rule allows is denied.

use super::{Action, Actions, Identity, Pattern};
use crate::oci::is_uploaded_file;

/// Whom a rule is for: any of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// By name.
    pub users: Vec<String>,
    /// Who is in one of these.
    pub groups: Vec<String>,
    /// Service accounts of Kubernetes by `<namespace>/<name>`.
    pub service_accounts: Vec<Pattern>,
    /// Everybody who has proved who they are.
    pub authenticated: bool,
    /// Everybody, also without credentials.
    pub anonymous: bool,
}

impl Who {
    /// Whether it is for nobody.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        *self == Self::default()
    }

    fn is(&self, identity: &Identity) -> bool {
        let Some(user) = &identity.user else { return self.anonymous };
        self.anonymous
            || self.authenticated
            || self.users.contains(user)
            || self.groups.iter().any(|group| identity.groups.contains(group))
            || identity.account().is_some_and(|account| {
                self.service_accounts.iter().any(|pattern| pattern.fits(&account, identity))
            })
    }
}

/// What some may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Who.
    pub who: Who,
    /// With which repositories.
    pub repositories: Vec<Pattern>,
    /// What.
    pub actions: Actions,
}

/// All rules. Without a single one, whoever has proved who they are may do everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// What somebody may do with a repository. In its name a segment `*` stands for any that there can be.
    #[must_use]
    pub fn allowed(&self, identity: &Identity, repository: &str) -> Actions {
        if self.0.is_empty() {
            return if identity.is_anonymous() { Actions::default() } else { Actions::REPOSITORY };
        }
        // Files that wait for their images have credentials of their own: no rule is meant for them.
        if is_uploaded_file(repository) {
            return Actions::default();
        }
        self.of(identity)
            .filter(|rule| rule.repositories.iter().any(|pattern| pattern.fits(repository, identity)))
            .fold(Actions::default(), |actions, rule| actions.or(rule.actions))
            .and(Actions::REPOSITORY)
    }

    /// Whether somebody may do this with a repository.
    #[must_use]
    pub fn allow(&self, identity: &Identity, action: Action, repository: &str) -> bool {
        self.allowed(identity, repository).has(action)
    }

    /// Whether somebody may look after the registry.
    #[must_use]
    pub fn allow_admin(&self, identity: &Identity) -> bool {
        if self.0.is_empty() {
            return !identity.is_anonymous();
        }
        self.of(identity).any(|rule| rule.actions.has(Action::Admin))
    }

    /// Whether somebody may read all that there is and will be.
    #[must_use]
    pub fn allow_pull_of_everything(&self, identity: &Identity) -> bool {
        if self.0.is_empty() {
            return !identity.is_anonymous();
        }
        self.of(identity).any(|rule| {
            rule.actions.has(Action::Pull) && rule.repositories.iter().any(Pattern::is_everything)
        })
    }

    fn of<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(|rule| rule.who.is(identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(who: Who, repositories: &[&str], actions: &[Action]) -> Rule {
        Rule {
            who,
            repositories: repositories.iter().map(|text| text.parse().unwrap()).collect(),
            actions: actions.iter().copied().collect(),
        }
    }

    fn account(namespace: &str) -> Identity {
        Identity::service_account(&format!("system:serviceaccount:{namespace}:builder")).unwrap()
    }

    #[test]
    fn one_rule_gives_each_namespace_its_own_images_and_no_others() {
        let who = Who { service_accounts: vec!["*/*".parse().unwrap()], ..Who::default() };
        let rules = Rules(vec![rule(who, &["vi/{namespace}/**"], &[Action::Pull, Action::Push])]);
        assert_eq!(rules.allowed(&account("a"), "vi/a/disk").to_string(), "pull,push");
        assert!(rules.allowed(&account("a"), "vi/b/disk").is_empty());
        assert!(rules.allowed(&account("a"), "cvi/disk").is_empty());
        assert!(rules.allowed(&Identity::user("builder"), "vi/a/disk").is_empty());
        assert!(!rules.allow_admin(&account("a")));
    }

    #[test]
    fn without_rules_users_may_everything_and_strangers_nothing() {
        let rules = Rules::default();
        assert_eq!(rules.allowed(&Identity::user("x"), "a/b"), Actions::REPOSITORY);
        assert!(rules.allow_admin(&Identity::user("x")) && !rules.allow_admin(&Identity::anonymous()));
        assert!(rules.allowed(&Identity::anonymous(), "a/b").is_empty());
        assert!(!rules.allow_pull_of_everything(&Identity::anonymous()));
    }

    #[test]
    fn what_strangers_may_everybody_may_and_not_the_other_way_round() {
        let public = Who { anonymous: true, ..Who::default() };
        let users = Who { authenticated: true, ..Who::default() };
        let rules = Rules(vec![
            rule(public, &["public/**"], &[Action::Pull]),
            rule(users, &["shared/**"], &[Action::Pull]),
        ]);
        for (identity, repository, expected) in [
            (Identity::anonymous(), "public/a", true),
            (Identity::user("x"), "public/a", true),
            (Identity::anonymous(), "shared/a", false),
            (Identity::user("x"), "shared/a", true),
            (Identity::user("x"), "private/a", false),
        ] {
            assert_eq!(
                rules.allow(&identity, Action::Pull, repository),
                expected,
                "{identity:?} {repository}"
            );
        }
        assert!(!rules.allow(&Identity::user("x"), Action::Push, "public/a"));
    }

    #[test]
    fn groups_and_names_are_compared_whole() {
        let who = Who { users: vec!["alice".to_owned()], groups: vec!["ops".to_owned()], ..Who::default() };
        let rules = Rules(vec![rule(who, &["**"], &[Action::Pull, Action::Admin])]);
        let with_group = |group: &str| Identity { groups: vec![group.to_owned()], ..Identity::user("bob") };
        assert!(rules.allow_admin(&Identity::user("alice")) && rules.allow_admin(&with_group("ops")));
        assert!(!rules.allow_admin(&Identity::user("alic")) && !rules.allow_admin(&with_group("ops2")));
        assert!(rules.allow_pull_of_everything(&Identity::user("alice")));
    }
}
