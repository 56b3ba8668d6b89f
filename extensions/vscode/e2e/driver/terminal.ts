import { until } from './wait.ts';
import type { Window } from './window.ts';

/** The terminal in front. */
export class Terminal {
	private readonly window: Window;

	constructor(window: Window) {
		this.window = window;
	}

	private get rows() {
		return this.window.page.locator('.terminal-wrapper.active .xterm-rows');
	}

	/** Shows the panel's terminals, with a first one if there is none. */
	async show(): Promise<void> {
		await this.window.command('Terminal: Focus Terminal');
		await this.rows.waitFor();
	}

	async open(): Promise<void> {
		await this.window.command('Terminal: Create New Terminal');
		await this.rows.waitFor();
	}

	async type(line: string): Promise<void> {
		await this.window.page.locator('.terminal-wrapper.active .xterm-helper-textarea').focus();
		await this.window.page.keyboard.type(line + '\n');
	}

	/** All that is on the screen; the ends of wrapped lines are not told from others. */
	async text(): Promise<string> {
		const rows = await this.rows.locator('> div').allInnerTexts();
		return rows.join('').replaceAll('\u00a0', ' ');
	}

	async shows(text: RegExp): Promise<string> {
		let now = '';
		try {
			return await until(`${text} in the terminal`, async () => text.test(now = await this.text()) && now);
		} catch (err) {
			throw new Error(`${(err as Error).message}; it has ${JSON.stringify(now)}`);
		}
	}
}
