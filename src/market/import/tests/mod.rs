//! Each layout from small files, wrong input, and imports that are broken off.

mod fixture;
mod layouts;
mod resume;
mod wrong;
