//! Kubernetes' CEL library of quantities, as far as it compares them: `quantity`, `isQuantity`, `compareTo`, `isGreaterThan`,
//! `isLessThan`.

use std::any::Any;
use std::cmp::Ordering;

use cel::common::types::{CelBool, CelInt, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};

use crate::apimachinery::Quantity;

/// What its functions are called.
pub(super) const FUNCTIONS: [&str; 5] =
    ["quantity", "isQuantity", "compareTo", "isGreaterThan", "isLessThan"];

static TYPE: Type = Type::new_unspecified_type("kubernetes.Quantity");

#[derive(Debug, Clone, Copy)]
struct CelQuantity(Quantity);

impl Val for CelQuantity {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| other.0 == self.0)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for CelQuantity {}

/// Gives an environment the functions.
pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(TYPE.to_owned())?;
    add_overload!(env, fn quantity: (CelString) -> Result<CelQuantity>)?;
    add_overload!(env, fn is_quantity: (CelString) -> CelBool, name = "isQuantity")?;
    add_member_overload!(env, fn compare_to: (CelQuantity, CelQuantity) -> CelInt)?;
    add_member_overload!(env, fn is_greater_than: (CelQuantity, CelQuantity) -> CelBool)?;
    add_member_overload!(env, fn is_less_than: (CelQuantity, CelQuantity) -> CelBool)?;
    Ok(())
}

fn quantity(text: &CelString<'_>) -> Result<CelQuantity, ExecutionError> {
    let wrong = || ExecutionError::function_error("quantity", "quantities must match the regular expression");
    Quantity::parse(text).map(CelQuantity).ok_or_else(wrong)
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    Quantity::parse(text).is_some().into()
}

fn compare_to(this: &CelQuantity, other: &CelQuantity) -> CelInt {
    let order: i64 = match this.0.cmp(&other.0) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    };
    order.into()
}

fn is_greater_than(this: &CelQuantity, other: &CelQuantity) -> CelBool {
    (this.0 > other.0).into()
}

fn is_less_than(this: &CelQuantity, other: &CelQuantity) -> CelBool {
    (this.0 < other.0).into()
}
