"""Knowledge-compliant matching: rules, knowledge and reasoning put into words."""
