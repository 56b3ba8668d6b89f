import type { Locator, Page } from 'playwright-core';

/** A tree in a view of the side bar. */
export class Tree {
	readonly pane: Locator;
	readonly rows: Locator;

	constructor(page: Page, title: string) {
		// Where a container has one view only its pane has no header of its own.
		this.pane = page.locator('.pane', { has: page.locator(`.pane-header[aria-label^="${title}"]`) });
		this.rows = this.pane.locator('.monaco-list-row');
	}

	row(text: string | RegExp): Locator {
		return this.rows.filter({ hasText: text }).first();
	}

	/** The row that a screen reader calls so. */
	labelled(label: string): Locator {
		return this.pane.locator(`.monaco-list-row[aria-label^="${label}"]`).first();
	}

	async texts(): Promise<string[]> {
		return (await this.rows.allInnerTexts()).map(t => t.replaceAll(/\s+/g, ' ').trim());
	}

	async labels(): Promise<(string | null)[]> {
		return this.rows.evaluateAll(all => all.map(r => r.getAttribute('aria-label')));
	}

	async expand(row: Locator): Promise<void> {
		await row.waitFor();
		if (await row.getAttribute('aria-expanded') === 'false') {
			await row.locator('.monaco-tl-twistie').click();
		}
	}

	/** A button that a row shows under the mouse. */
	async action(text: string | RegExp, name: string): Promise<void> {
		const row = this.row(text);
		await row.hover();
		await row.locator(`.actions .action-label[aria-label^="${name}"]`).click();
	}
}
