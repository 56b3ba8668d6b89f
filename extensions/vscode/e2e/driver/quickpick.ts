import type { Locator, Page } from 'playwright-core';

import { until } from './wait.ts';

/** The list that drops from the top: the palette, or a picker of an extension. */
export class QuickPick {
	private readonly page: Page;
	readonly box: Locator;
	readonly rows: Locator;
	readonly input: Locator;

	constructor(page: Page) {
		this.page = page;
		this.box = page.locator('.quick-input-widget:visible');
		this.rows = this.box.locator('.quick-input-list .monaco-list-row');
		this.input = this.box.locator('.quick-input-box input');
	}

	/** Waits for a picker of this title. */
	async titled(title: string): Promise<void> {
		await this.box.locator('.quick-input-title', { hasText: title }).waitFor();
	}

	async filter(text: string): Promise<void> {
		await this.input.fill(text);
	}

	row(text: string): Locator {
		return this.rows.filter({ hasText: text }).first();
	}

	/** Waits until nothing is loaded any more: the rows move until then, also under the mouse. */
	async loaded(): Promise<void> {
		const progress = this.box.locator('.monaco-progress-container.active');
		await until('the list to be loaded', async () => await progress.count() === 0);
	}

	/**
	 * Chooses by the mouse: Enter may still act on the list as it was. A row whose
	 * label is just this text goes before any other that has it.
	 */
	async choose(text: string): Promise<void> {
		await this.row(text).waitFor();
		await this.loaded();
		const label = this.page.locator('.label-name').getByText(text, { exact: true });
		const exact = this.rows.filter({ has: label });
		await (await exact.count() > 0 ? exact.first() : this.row(text)).click();
	}

	async texts(): Promise<string[]> {
		return (await this.rows.allInnerTexts()).map(t => t.replaceAll(/\s+/g, ' ').trim());
	}

	/** What a screen reader says of each row. */
	async labels(): Promise<(string | null)[]> {
		return this.rows.evaluateAll(all => all.map(r => r.getAttribute('aria-label')));
	}

	/** The row that the keyboard is at. */
	get focused(): Locator {
		return this.rows.and(this.page.locator('.focused'));
	}

	/** Moves by the keyboard to the row with a text, and takes it. */
	async chooseByKeyboard(text: string): Promise<void> {
		await this.row(text).waitFor();
		for (let i = await this.rows.count(); i >= 0; i--) {
			if ((await this.focused.allInnerTexts()).join(' ').replaceAll(/\s+/g, ' ').includes(text)) {
				await this.page.keyboard.press('Enter');
				return;
			}
			await this.page.keyboard.press('ArrowDown');
		}
		throw new Error(`the keyboard does not reach ${text} in ${JSON.stringify(await this.texts())}`);
	}

	/** A button in the title, by its tooltip. */
	button(name: string): Locator {
		return this.box.locator('.quick-input-titlebar .action-label, .quick-input-header .action-label').and(this.page.locator(`[aria-label^="${name}"]`));
	}

	async escape(): Promise<void> {
		await this.page.keyboard.press('Escape');
		await until('the picker to close', async () => await this.box.count() === 0);
	}
}
