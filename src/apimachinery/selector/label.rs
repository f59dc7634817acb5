//! Label selectors: equality- and set-based terms joined by commas.

use serde_json::Value;

use super::SelectorError;

#[derive(Clone, Debug)]
enum Condition {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default)]
pub struct LabelSelector {
    requirements: Vec<(String, Condition)>,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// When the text is not a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), position: 0 };
        let mut requirements = Vec::new();
        if parser.peek() == Token::End {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                Token::End => return Ok(Self { requirements }),
                Token::Comma => {}
                other => return Err(unexpected(&other, "',' or 'end of string'")),
            }
        }
    }

    /// Whether the object's `metadata.labels` fulfil every requirement.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.requirements.iter().all(|(key, condition)| {
            let value = labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
            match condition {
                Condition::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                Condition::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                Condition::Exists => value.is_some(),
                Condition::Missing => value.is_none(),
            }
        })
    }

    /// Whether there is no requirement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equal,
    NotEqual,
    End,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(&character) = characters.peek() {
        if "(),!=".contains(character) {
            characters.next();
            tokens.push(match character {
                '(' => Token::Open,
                ')' => Token::Close,
                ',' => Token::Comma,
                '!' if characters.next_if_eq(&'=').is_some() => Token::NotEqual,
                '!' => Token::Not,
                _ => {
                    characters.next_if_eq(&'=');
                    Token::Equal
                }
            });
        } else if character.is_whitespace() {
            characters.next();
        } else {
            let mut word = String::new();
            while let Some(character) =
                characters.next_if(|one| !one.is_whitespace() && !"(),!=".contains(*one))
            {
                word.push(character);
            }
            tokens.push(Token::Word(word));
        }
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.position).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn requirement(&mut self) -> Result<(String, Condition), SelectorError> {
        if self.peek() == Token::Not {
            self.next();
            return Ok((self.key()?, Condition::Missing));
        }
        let key = self.key()?;
        let condition = match self.peek() {
            Token::End | Token::Comma => return Ok((key, Condition::Exists)),
            Token::Equal => Condition::In(vec![self.exact_value()?]),
            Token::NotEqual => Condition::NotIn(vec![self.exact_value()?]),
            Token::Word(word) if word == "in" => Condition::In(self.values()?),
            Token::Word(word) if word == "notin" => Condition::NotIn(self.values()?),
            other => return Err(unexpected(&other, "'in', 'notin', '=', '==', '!='")),
        };
        Ok((key, condition))
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        match self.next() {
            Token::Word(word) if is_qualified_name(&word) => Ok(word),
            Token::Word(word) => {
                Err(SelectorError(format!("unable to parse requirement: key: Invalid value: \"{word}\"")))
            }
            other => Err(unexpected(&other, "identifier")),
        }
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        self.next();
        match self.peek() {
            // `a=` asks for the empty value.
            Token::End | Token::Comma => Ok(String::new()),
            _ => self.value(),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.next();
        let open = self.next();
        if open != Token::Open {
            return Err(unexpected(&open, "'('"));
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Comma | Token::Close => values.push(String::new()),
                _ => values.push(self.value()?),
            }
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(unexpected(&other, "',' or ')'")),
            }
        }
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        match self.next() {
            Token::Word(word) if is_label_value(&word) => Ok(word),
            Token::Word(word) => {
                Err(SelectorError(format!("unable to parse requirement: values: Invalid value: \"{word}\"")))
            }
            other => Err(unexpected(&other, "identifier")),
        }
    }
}

fn unexpected(token: &Token, expected: &str) -> SelectorError {
    let found = match token {
        Token::Word(word) => word,
        Token::Comma => ",",
        Token::Open => "(",
        Token::Close => ")",
        Token::Not => "!",
        Token::Equal => "=",
        Token::NotEqual => "!=",
        Token::End => "",
    };
    SelectorError(format!("unable to parse requirement: found '{found}', expected: {expected}"))
}

fn is_label_value(text: &str) -> bool {
    let alphanumeric = |character: Option<char>| character.is_some_and(|one| one.is_ascii_alphanumeric());
    text.len() <= 63
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().last())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one))
}

fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => {
            crate::apimachinery::name::is_dns1123_subdomain(prefix).is_empty() && is_label_value(name)
        }
        None => is_label_value(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(selector: &str, labels: &Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn each_operator_does_what_kubectl_users_expect() {
        let labels = json!({"app": "web", "tier": "front", "empty": ""});
        for selector in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "other!=x",
            "app in (db, web)",
            "app notin (db)",
            "app",
            "!other",
            "tier=front,app in (web)",
            "empty=",
            "other notin (a)",
        ] {
            assert!(matches(selector, &labels), "{selector}");
        }
        for selector in
            ["app=db", "app!=web", "app in (db)", "app notin (web,db)", "other", "!app", "other in (a)"]
        {
            assert!(!matches(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn prefixed_keys_are_keys() {
        assert!(matches("app.kubernetes.io/name = x", &json!({"app.kubernetes.io/name": "x"})));
    }

    #[test]
    fn an_object_without_labels_fulfils_only_negative_terms() {
        assert!(LabelSelector::parse("!a,b!=c").unwrap().matches(&json!({})));
        assert!(!LabelSelector::parse("a").unwrap().matches(&json!({})));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for selector in ["=a", "a in b", "a in (b", "a b", "a,", "!", "a=b c", "a=-b", "$=1", "a/b/c"] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }
}
