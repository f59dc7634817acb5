//! [`Caller`]: who asks, and what they may.

use std::sync::Arc;

use super::{Action, Actions, Identity, Rules, Scope};

/// Somebody who asks for something.
#[derive(Debug, Clone)]
pub struct Caller {
    identity: Identity,
    rights: Rights,
}

#[derive(Debug, Clone)]
enum Rights {
    /// Nobody is asked who they are.
    All,
    /// What the rules allow them.
    Rules(Arc<Rules>),
    /// What their token opens, and nothing else, whatever the rules allow them.
    Scopes { rules: Arc<Rules>, scopes: Vec<Scope> },
}

impl Caller {
    /// Whoever can connect, where that is enough.
    #[must_use]
    pub fn trusted() -> Self {
        Self { identity: Identity::anonymous(), rights: Rights::All }
    }

    pub(super) fn by_rules(identity: Identity, rules: &Arc<Rules>) -> Self {
        Self { identity, rights: Rights::Rules(Arc::clone(rules)) }
    }

    pub(super) fn by_token(identity: Identity, rules: &Arc<Rules>, scopes: Vec<Scope>) -> Self {
        Self { identity, rights: Rights::Scopes { rules: Arc::clone(rules), scopes } }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether they may do this with a repository. In its name a segment `*` stands for any that there can be.
    #[must_use]
    pub fn may(&self, action: Action, repository: &str) -> bool {
        match &self.rights {
            Rights::All => true,
            Rights::Rules(rules) => rules.allow(&self.identity, action, repository),
            Rights::Scopes { scopes, .. } => scopes
                .iter()
                .any(|scope| scope.of_repository() == Some(repository) && scope.actions().has(action)),
        }
    }

    /// Whether they may do all of this with a repository.
    #[must_use]
    pub fn may_all(&self, actions: Actions, repository: &str) -> bool {
        actions.iter().all(|action| self.may(action, repository))
    }

    /// Whether they may look after the registry as a whole.
    #[must_use]
    pub fn may_administer(&self) -> bool {
        match &self.rights {
            Rights::All => true,
            Rights::Rules(rules) => rules.allow_admin(&self.identity),
            Rights::Scopes { scopes, .. } => scopes.contains(&Scope::admin()),
        }
    }

    /// Whether they may ask which repositories there are.
    #[must_use]
    pub fn may_list(&self) -> bool {
        match &self.rights {
            Rights::All | Rights::Rules(_) => true,
            Rights::Scopes { scopes, .. } => scopes.contains(&Scope::catalog()),
        }
    }

    /// Whether a repository is one of those that they are told of.
    #[must_use]
    pub fn sees(&self, repository: &str) -> bool {
        match &self.rights {
            Rights::All => true,
            Rights::Rules(rules) | Rights::Scopes { rules, .. } => {
                rules.allow(&self.identity, Action::Pull, repository)
            }
        }
    }

    /// Whether they may read all that there is and will be.
    #[must_use]
    pub fn may_pull_everything(&self) -> bool {
        match &self.rights {
            Rights::All => true,
            Rights::Rules(rules) => rules.allow_pull_of_everything(&self.identity),
            Rights::Scopes { .. } => false,
        }
    }

    /// Whether asking for another token could help: the rules allow more than this one opens.
    #[must_use]
    pub fn could_ask_for(&self, scopes: &[Scope]) -> bool {
        let Rights::Scopes { rules, .. } = &self.rights else { return false };
        self.identity.is_anonymous()
            || scopes.iter().all(|scope| match scope.of_repository() {
                Some(repository) => {
                    let wanted = scope.actions();
                    rules.allowed(&self.identity, repository).and(wanted) == wanted
                }
                None if *scope == Scope::admin() => rules.allow_admin(&self.identity),
                None => true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_repositories_whatever_its_user_may() {
        let rules = Arc::new(Rules::default());
        let alice = Identity::user("alice");
        let pull = Scope::repository("a", Action::Pull.into());
        let by_token = Caller::by_token(alice.clone(), &rules, vec![pull]);
        assert!(by_token.may(Action::Pull, "a"));
        for (action, repository) in [(Action::Push, "a"), (Action::Pull, "b"), (Action::Pull, "a/b")] {
            assert!(!by_token.may(action, repository), "{action} {repository}");
        }
        assert!(!by_token.may_administer() && !by_token.may_list() && !by_token.may_pull_everything());
        assert!(by_token.could_ask_for(&[Scope::repository("b", Action::Push.into())]));
        let herself = Caller::by_rules(alice, &rules);
        assert!(herself.may(Action::Push, "b") && herself.may_administer() && herself.may_list());
    }

    #[test]
    fn another_token_is_worth_asking_for_only_if_the_rules_allow_more() {
        let nothing = Arc::new(Rules(vec![super::super::Rule {
            who: super::super::Who { anonymous: true, ..Default::default() },
            repositories: vec!["public/*".parse().unwrap()],
            actions: Action::Pull.into(),
        }]));
        let caller = Caller::by_token(Identity::user("alice"), &nothing, Vec::new());
        assert!(caller.could_ask_for(&[Scope::repository("public/a", Action::Pull.into())]));
        assert!(!caller.could_ask_for(&[Scope::repository("public/a", Action::Push.into())]));
        assert!(!caller.could_ask_for(&[Scope::admin()]));
        // A stranger can become somebody.
        let stranger = Caller::by_token(Identity::anonymous(), &nothing, Vec::new());
        assert!(stranger.could_ask_for(&[Scope::admin()]));
    }
}
